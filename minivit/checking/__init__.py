"""Verify gradients numerically."""

from .cases import Case, all_cases
from .gradcheck import gradcheck
from .retained import list_retained

__all__ = ["Case", "all_cases", "gradcheck", "list_retained"]
