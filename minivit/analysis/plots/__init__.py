"""Functions that draw a figure and return it, without pyplot."""

from .attention import plot_attention, plot_gradients
from .distance import plot_distances
from .embeddings import plot_filters, plot_similarity
from .figure import save_figure
from .model import plot_held_out, plot_model
from .training import plot_curves

__all__ = [
    "plot_attention", "plot_curves", "plot_distances", "plot_filters", "plot_gradients",
    "plot_held_out", "plot_model", "plot_similarity", "save_figure",
]  # fmt: skip
