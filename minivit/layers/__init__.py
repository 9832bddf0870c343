"""One file for each equation. Every function returns its value and its pullback."""

from .attention import attend, self_attention, single_head_attention
from .dropout import dropout
from .embedding import patch_embedding, prepend_class_token
from .gelu import gelu
from .heads import class_pool, mean_pool, pretraining_head
from .layer_norm import layer_norm
from .linear import linear
from .losses import cross_entropy, mean_squared_error
from .mlp import mlp
from .patches import patchify, unpatchify
from .positions import (
    add_positions,
    add_positions_2d,
    add_positions_sincos2d,
    relative_positions,
)
from .softmax import softmax

__all__ = [
    "add_positions",
    "add_positions_2d",
    "add_positions_sincos2d",
    "attend",
    "class_pool",
    "cross_entropy",
    "dropout",
    "gelu",
    "layer_norm",
    "linear",
    "mean_pool",
    "mean_squared_error",
    "mlp",
    "patch_embedding",
    "patchify",
    "prepend_class_token",
    "pretraining_head",
    "relative_positions",
    "self_attention",
    "single_head_attention",
    "softmax",
    "unpatchify",
]
