"""minivit: the Vision Transformer from scratch, with every backward pass written by hand."""

from typing import TYPE_CHECKING, Any

from . import analysis, cost, data, devices, layers, models, training, weights
from .api import ViT
from .checking.gradcheck import gradcheck
from .checking.retained import list_retained
from .cost import summary
from .models import ViTConfig
from .training import plot_training
from .tree import flatten, unflatten

if TYPE_CHECKING:
    from .analysis.plots import plot_attention

__version__ = "0.2.0"

__all__ = [
    "ViT", "ViTConfig", "__version__", "analysis", "cost", "data", "devices", "flatten",
    "gradcheck", "layers", "list_retained", "models", "plot_attention", "plot_training", "summary",
    "training", "unflatten", "weights",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import `plot_attention` on first use, because Matplotlib loads slowly."""
    if name == "plot_attention":
        return analysis.plot_attention
    raise AttributeError(f"module 'minivit' has no attribute {name!r}")
