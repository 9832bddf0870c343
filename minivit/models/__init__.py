"""The model as pure functions of images and parameters."""

from .config import HYBRIDS, PREPROCESSINGS, SIZES, ViTConfig
from .hybrid import bottleneck, resnet_stem
from .initialise import initialise, parameter_count, parameters
from .vit import classify, embed, encoder_block, infer, represent, vit

__all__ = [
    "HYBRIDS",
    "PREPROCESSINGS",
    "SIZES",
    "ViTConfig",
    "bottleneck",
    "classify",
    "embed",
    "encoder_block",
    "infer",
    "initialise",
    "parameter_count",
    "parameters",
    "represent",
    "resnet_stem",
    "vit",
]
