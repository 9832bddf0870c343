"""Looking inside a model: where it looks, which looks matter, what it learned; and the figures."""

from .attention import attention_rollout, patch_maps
from .distance import mean_attention_distance
from .embeddings import patch_filters, position_similarity, position_table
from .localisation import box_area_fraction, fraction_in_box, localisation_scores
from .plots.attention import plot_attention, plot_curves, save_figure
from .plots.figures import plot_distances, plot_filters, plot_gradients, plot_similarity
from .plots.model import KINDS, OF_A_LAYER, OF_IMAGES, draw, draw_held_out
from .plots.overlay import overlay, plot_overlays
from .relevance import attention_gradients, gradient_weighted_rollout, gradient_weighted_sum

__all__ = [
    "KINDS",
    "OF_A_LAYER",
    "OF_IMAGES",
    "attention_gradients",
    "box_area_fraction",
    "draw",
    "draw_held_out",
    "gradient_weighted_sum",
    "gradient_weighted_rollout",
    "fraction_in_box",
    "mean_attention_distance",
    "overlay",
    "patch_filters",
    "patch_maps",
    "plot_attention",
    "plot_curves",
    "plot_distances",
    "plot_filters",
    "plot_gradients",
    "plot_overlays",
    "plot_similarity",
    "position_similarity",
    "position_table",
    "attention_rollout",
    "save_figure",
    "localisation_scores",
]
