"""The default model and recipe of each data set.

A preset contains the fields that differ from the defaults of ViTConfig and Recipe or, for
fine-tuning, of FINE_TUNING. `python -m minivit train --data NAME --print-config` prints all fields.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from .finetune import FINE_TUNING
from .recipe import Recipe


class Preset(NamedTuple):
    """Fields of ViTConfig, of Recipe, and of the Recipe for fine-tuning."""

    model: dict[str, Any]
    recipe: dict[str, Any]
    fine_tuning: dict[str, Any]


DIGITS = {
    "image_size": 8, "patch_size": 2, "channels": 1, "classes": 10,
    "width": 64, "depth": 4, "heads": 4, "mlp_width": 256, "position_std": 1.0,
}  # fmt: skip
SCATTERED = DIGITS | {"image_size": 24, "patch_size": 4, "position_std": 0.1}
MNIST = DIGITS | {"image_size": 28, "patch_size": 7, "position_std": 0.1}
# Hybrids (section 3.1) that two cores train in less than an hour: a ResNet of one stage with two or
# three units. Each entry of its feature map is a token.
FASHION = {
    "image_size": 28, "stem": (2,), "patch_size": 1, "channels": 1, "classes": 10,
    "width": 96, "depth": 2, "heads": 4, "mlp_width": 192, "position_std": 0.1,
}  # fmt: skip
CIFAR10 = FASHION | {"image_size": 32, "stem": (3,), "channels": 3, "width": 128, "mlp_width": 256}
FOLDER = {  # the number of classes depends on the folder
    "image_size": 64, "patch_size": 8, "channels": 3, "preprocessing": "cropped",
    "width": 192, "depth": 6, "heads": 3, "mlp_width": 384, "position_std": 0.1,
}  # fmt: skip

FASHION_RECIPE = {"epochs": 8, "batch_size": 64, "warmup": 0.5, "shift": 0, "flip": True}
CIFAR_RECIPE = {"epochs": 22, "warmup": 1, "shift": 4, "flip": True}
CIFAR_FINE_TUNING = {"epochs": 5, "warmup": 0.5, "flip": True}
PRESETS = {
    "digits": Preset(DIGITS, {}, {}),
    "scattered": Preset(SCATTERED, {"epochs": 6, "warmup": 0.3}, {"epochs": 1, "warmup": 0.1}),
    "mnist": Preset(MNIST, {"epochs": 11, "warmup": 1, "shift": 2}, {"epochs": 3, "warmup": 0.3}),
    "fashion-mnist": Preset(FASHION, FASHION_RECIPE, {"epochs": 3, "warmup": 0.3, "flip": True}),
    "cifar10": Preset(CIFAR10, CIFAR_RECIPE, CIFAR_FINE_TUNING),
    "cifar100": Preset(CIFAR10 | {"classes": 100}, CIFAR_RECIPE, CIFAR_FINE_TUNING),
}
FOLDER_RECIPE = {"epochs": 30, "warmup": 2, "shift": 4, "flip": True}
FOLDER_PRESET = Preset(FOLDER, FOLDER_RECIPE, {"epochs": 10, "warmup": 1, "flip": True})


def get_preset(data: str | Path) -> Preset:
    """Return the preset of a data set: a name in PRESETS, or a folder of images by class."""
    return FOLDER_PRESET if isinstance(data, Path) else PRESETS[data]


def make_recipe(data: str | Path, fine_tuning: bool = False, **fields: Any) -> Recipe:
    """Return the recipe of a data set with these fields replaced. Raises ValueError as Recipe."""
    preset = get_preset(data)
    if fine_tuning:
        return dataclasses.replace(FINE_TUNING, **preset.fine_tuning | fields)
    return Recipe(**preset.recipe | fields)
