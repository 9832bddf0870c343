"""minivit: the Vision Transformer from scratch, every forward and backward pass by hand."""

from . import data, layers, training, weights
from .checker import gradcheck
from .model import ViT
from .models import ViTConfig
from .tree import flatten, unflatten

__version__ = "0.1.0"


__all__ = [
    "ViT",
    "ViTConfig",
    "__version__",
    "data",
    "flatten",
    "gradcheck",
    "layers",
    "training",
    "unflatten",
    "weights",
]
