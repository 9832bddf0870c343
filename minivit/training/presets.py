"""For each data set, the model and the schedule that suit it.

A preset has only what differs: the rest is as in ViTConfig, in Recipe and, for a model that is
fine-tuned, in FINE_TUNING. `python -m minivit train --data NAME --print-config` shows it whole.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from .. import training


class Preset(NamedTuple):
    """Fields of ViTConfig, of Recipe, and of the Recipe of a fine-tuning."""

    model: dict[str, Any]
    make_recipe: dict[str, Any]
    tuning: dict[str, Any]


DIGITS = {
    "image_size": 8, "patch_size": 2, "channels": 1, "classes": 10,
    "width": 64, "depth": 4, "heads": 4, "mlp_width": 256, "position_std": 1.0,
}  # fmt: skip
SCATTERED = DIGITS | {"image_size": 24, "patch_size": 4, "position_std": 0.1}
MNIST = {
    "image_size": 28, "patch_size": 7, "channels": 1, "classes": 10,
    "width": 64, "depth": 4, "heads": 4, "mlp_width": 256, "position_std": 0.1,
}  # fmt: skip
# Hybrids, section 3.1, that two cores train in less than an hour: a ResNet of one stage with two or
# three units, each place of whose map is a token.
FASHION = {
    "image_size": 28, "stem": (2,), "patch_size": 1, "channels": 1, "classes": 10,
    "width": 96, "depth": 2, "heads": 4, "mlp_width": 192, "position_std": 0.1,
}  # fmt: skip
CIFAR10 = FASHION | {
    "image_size": 32, "stem": (3,), "channels": 3, "width": 128, "mlp_width": 256,
}  # fmt: skip
FOLDER = {  # its classes are counted when it is looked at
    "image_size": 64, "patch_size": 8, "channels": 3, "preprocessing": "cropped",
    "width": 192, "depth": 6, "heads": 3, "mlp_width": 384, "position_std": 0.1,
}  # fmt: skip

CIFAR_RECIPE = {"epochs": 22, "warmup": 1, "shift": 4, "flip": True}
CIFAR_TUNING = {"epochs": 5, "warmup": 0.5, "flip": True}
PRESETS = {
    "digits": Preset(DIGITS, {}, {}),
    "scattered": Preset(SCATTERED, {"epochs": 6, "warmup": 0.3}, {"epochs": 1, "warmup": 0.1}),
    "mnist": Preset(MNIST, {"epochs": 11, "warmup": 1, "shift": 2}, {"epochs": 3, "warmup": 0.3}),
    "fashion-mnist": Preset(
        FASHION,
        {"epochs": 8, "batch_size": 64, "warmup": 0.5, "shift": 0, "flip": True},
        {"epochs": 3, "warmup": 0.3, "flip": True},
    ),
    "cifar10": Preset(CIFAR10, CIFAR_RECIPE, CIFAR_TUNING),
    "cifar100": Preset(CIFAR10 | {"classes": 100}, CIFAR_RECIPE, CIFAR_TUNING),
}
FOLDER_PRESET = Preset(
    FOLDER,
    {"epochs": 30, "warmup": 2, "shift": 4, "flip": True},
    {"epochs": 10, "warmup": 1, "flip": True},
)


def get_preset(data: str | Path) -> Preset:
    """What suits a data set: one of the names in PRESETS, or a folder of images by class."""
    return FOLDER_PRESET if isinstance(data, Path) else PRESETS[data]


def make_recipe(data: str | Path, tuning: bool = False, **settings: Any) -> training.Recipe:
    """The recipe for a data set, for a fine-tuning where one is meant, with some fields replaced.

    Raises ValueError for what a Recipe refuses.
    """
    if tuning:
        return dataclasses.replace(training.FINE_TUNING, **get_preset(data).tuning | settings)
    return training.Recipe(**get_preset(data).recipe | settings)
