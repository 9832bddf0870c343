"""Functions that draw a figure and return it."""

from .attention import plot_gradients, plot_map, plot_maps
from .distance import plot_distances
from .embeddings import plot_filters, plot_similarity
from .figure import ATTENTION_COLOURS, SIGNED_COLOURS, figure_format, save_figure
from .model import plot_attention, plot_held_out, plot_model
from .training import plot_curves

__all__ = [
    "ATTENTION_COLOURS", "SIGNED_COLOURS", "figure_format", "plot_attention", "plot_curves",
    "plot_distances", "plot_filters", "plot_gradients", "plot_held_out", "plot_map", "plot_maps",
    "plot_model", "plot_similarity", "save_figure",
]  # fmt: skip
