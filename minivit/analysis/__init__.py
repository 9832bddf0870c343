"""Attention maps, relevance, attention distance and embeddings of a model, and their figures."""

from importlib import import_module
from typing import Any

from .attention import attention_rollout, attention_sinks, patch_maps
from .distance import mean_attention_distance
from .embeddings import patch_filters, position_similarity, position_table
from .localisation import box_area_fraction, fraction_in_box, localisation_scores
from .maps import IMAGE_KINDS, KINDS, LAYER_KINDS, METHODS, attention_maps, find_class, name_class
from .relevance import attention_gradients, gradient_weighted_rollout, gradient_weighted_sum

__all__ = [
    "IMAGE_KINDS", "KINDS", "LAYER_KINDS", "METHODS", "attention_gradients", "attention_maps",
    "attention_rollout", "attention_sinks", "box_area_fraction", "find_class", "fraction_in_box",
    "gradient_weighted_rollout", "gradient_weighted_sum", "localisation_scores",
    "mean_attention_distance", "name_class", "patch_filters", "patch_maps", "position_similarity",
    "position_table",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Provide the names of `plots`, imported on first use because Matplotlib loads slowly."""
    plots = import_module(".plots", __name__)
    return plots if name == "plots" else getattr(plots, name)
