"""The model as pure functions of images and parameters."""

from .config import ViTConfig
from .initialise import initialise, parameter_count, parameters
from .vit import classify, embed, encoder_block, infer, vit

__all__ = [
    "ViTConfig",
    "classify",
    "embed",
    "encoder_block",
    "infer",
    "initialise",
    "parameter_count",
    "parameters",
    "vit",
]
