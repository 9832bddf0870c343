"""What the commands share: models, data sets and pictures, as the command line names them."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..model import ViT
from ..options import PRESETS, READING, WEIGHTS


def load(path: Path, **fields: Any) -> ViT:
    """The model of a file. Raises FileNotFoundError that says how the usual one is made."""
    if path == WEIGHTS and not path.exists():
        raise FileNotFoundError(f"there is no {path} yet: `python -m minivit train` makes it")
    return ViT.load(path, **fields)


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """How a file of weights is to be read, as far as the command line says."""
    if args.resize and args.image_size is None:
        args.usage_error("--resize is how positions become those of another --image-size: say it")
    named = {name: getattr(args, name) for name in READING}
    return {name: value for name, value in named.items() if value is not None}


def must_fit(model: ViT, dataset: data.Dataset, path: Path) -> None:
    """Raise ValueError if the model tells other classes apart, or none."""
    known, K = model.config.classes, len(dataset.classes)
    if known != K:
        knows = "has no classifier for" if known is None else f"knows {known} classes, not"
        raise ValueError(
            f"{path} does not fit the {dataset.name}: it {knows} their {K}; "
            "`train --from` puts a new head on it"
        )


def must_classify(model: ViT, path: Path) -> None:
    """Raise ValueError if the model has no classifier."""
    if model.config.classes is None:
        raise ValueError(f"{path} has no classifier: it knows no classes to name")


def fit(dataset: data.Dataset, model: ViT) -> data.Dataset:
    """The data set with its images as the model takes them."""
    c = model.config
    return data.fit(dataset, c.image_size, c.channels, c.preprocessing)


def data_name(model: ViT) -> str | None:
    """The name of the data set whose images a model takes, or None."""
    takes = (*model.config.image_size, model.config.channels)
    for name, (shape, _) in PRESETS.items():
        if takes == (shape["image_size"], shape["image_size"], shape["channels"]):
            return name
    return None


def dataset_for(model: ViT, args: argparse.Namespace, n: int = 1) -> data.Dataset:
    """The data set that was named, or else fits, as the model takes it, with n images to train on.

    Raises ValueError if none was named and none fits.
    """
    name = args.data or data_name(model)
    if name is None:
        H, W, C = (*model.config.image_size, model.config.channels)
        takes = f"{args.weights} takes images of {H} x {W} x {C}"
        raise ValueError(f"{takes}: say with --data which are to be fitted")
    return fit(data.DATASETS[name](n=n), model)


def takes_photographs(model: ViT) -> bool:
    """Whether its images are coloured, and none of the data sets here is of their size."""
    return model.config.channels == 3 and data_name(model) is None


def read_images(model: ViT, args: argparse.Namespace) -> np.ndarray:
    """The image files of the command line, as the model takes them."""
    size, channels = model.config.image_size, model.config.channels
    how = data.preprocessing_of(model.config.preprocessing, size)
    if args.short_side is not None:
        how = dataclasses.replace(how, short_side=args.short_side)
    images = np.stack([data.read_image(path, size, channels, how) for path in args.images])
    return how.inverted(images) if args.invert else images


def labels_of(model: ViT, args: argparse.Namespace) -> list[str] | None:
    """The names of a model's classes, if a file of them was given."""
    if not args.labels:
        return None
    must_classify(model, args.weights)
    return data.read_labels(args.labels, model.config.classes)


def given(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """The fields of a dataclass that the command line sets."""
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}


def fail(message: str) -> int:
    """Say in one line what went wrong."""
    print(f"minivit: error: {message}", file=sys.stderr)
    return 1
