"""Looking inside a model: where it looks, which looks matter, what it learned; and the figures."""

from .attention import mean_attention_distance, patch_maps, rollout
from .boxes import box_share, mass_inside, shares_inside
from .drawing import KINDS, OF_A_LAYER, OF_IMAGES, draw, draw_held_out
from .embedding import patch_filters, position_similarity, position_table
from .figures import plot_distances, plot_filters, plot_gradients, plot_similarity
from .gradients import attention_gradients, gradient_sum, gradient_weighted
from .overlays import overlay, plot_overlays
from .plots import plot_attention, plot_curves, save_figure

__all__ = [
    "KINDS",
    "OF_A_LAYER",
    "OF_IMAGES",
    "attention_gradients",
    "box_share",
    "draw",
    "draw_held_out",
    "gradient_sum",
    "gradient_weighted",
    "mass_inside",
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
    "rollout",
    "save_figure",
    "shares_inside",
]
