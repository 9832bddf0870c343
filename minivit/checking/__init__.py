"""Verify gradients numerically."""

from .cases import Case, all_cases, layer_cases, model_cases
from .gradcheck import GradientReport, gradcheck
from .retained import list_retained

__all__ = [
    "Case", "GradientReport", "all_cases", "gradcheck", "layer_cases", "list_retained",
    "model_cases",
]  # fmt: skip
