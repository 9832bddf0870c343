"""minivit: the Vision Transformer from scratch, with every backward pass written by hand."""

from . import analysis, data, devices, layers, models, training, weights
from .api import ViT
from .checking.gradcheck import gradcheck
from .checking.retained import list_retained
from .models import ViTConfig
from .tree import flatten, unflatten

__version__ = "0.2.0"

__all__ = [
    "ViT", "ViTConfig", "__version__", "analysis", "data", "devices", "flatten", "gradcheck",
    "layers", "list_retained", "models", "training", "unflatten", "weights",
]  # fmt: skip
