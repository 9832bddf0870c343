"""Layers, one file per equation. Every function returns its value and its pullback."""

from .attention import attend, self_attention, single_head_attention
from .convolution import convolution, standardise, standardised_convolution
from .dropout import drop_path, dropout
from .embedding import patch_embedding, prepend_class_token
from .gelu import gelu
from .group_norm import group_norm
from .heads import class_pool, hidden_layer, mean_pool, pretraining_head
from .layer_norm import layer_norm
from .linear import linear
from .losses import cross_entropy, mean_squared_error
from .max_pool import max_pool
from .mlp import mlp
from .patches import patchify, unpatchify
from .positions import add_positions, add_positions_2d, add_positions_sincos2d, relative_positions
from .relu import relu
from .softmax import softmax

__all__ = [
    "add_positions", "add_positions_2d", "add_positions_sincos2d", "attend", "class_pool",
    "convolution", "cross_entropy", "drop_path", "dropout", "gelu", "group_norm", "hidden_layer",
    "layer_norm", "linear", "max_pool", "mean_pool", "mean_squared_error", "mlp", "patch_embedding",
    "patchify", "prepend_class_token", "pretraining_head", "relative_positions", "relu",
    "self_attention", "single_head_attention", "softmax", "standardise", "standardised_convolution",
    "unpatchify",
]  # fmt: skip
