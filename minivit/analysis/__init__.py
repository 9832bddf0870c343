"""Looking inside a model: attention maps, rollout, and the figures of both."""

from .attention import patch_maps, rollout
from .plots import plot_attention, plot_curves, save_figure

__all__ = ["patch_maps", "plot_attention", "plot_curves", "rollout", "save_figure"]
