"""Models as pure functions of images and parameters."""

from .config import HYBRIDS, PREPROCESSINGS, SIZES, ViTConfig
from .initialise import initialise, parameter_count, parameter_specs
from .resnet import bottleneck, resnet_stem
from .vit import classify, embed, encoder_block, forward_features, infer, vit

__all__ = [
    "HYBRIDS", "PREPROCESSINGS", "SIZES", "ViTConfig", "bottleneck", "classify", "embed",
    "encoder_block", "forward_features", "infer", "initialise", "parameter_count",
    "parameter_specs", "resnet_stem", "vit",
]  # fmt: skip
