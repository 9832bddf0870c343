"""What the commands share: models, data sets and pictures, as the command line names them."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..model import ViT
from ..options import PRESETS, WEIGHTS


def load(path: Path, **fields: Any) -> ViT:
    """The model of a file. Raises FileNotFoundError that says how the usual one is made."""
    if path == WEIGHTS and not path.exists():
        raise FileNotFoundError(f"there is no {path} yet: `python -m minivit train` makes it")
    return ViT.load(path, **fields)


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """How a file of weights is to be read, as far as the command line says."""
    names = ("image_size", "resize", "heads", "gelu", "norm_eps", "preprocessing")
    named = {name: getattr(args, name, None) for name in names}
    return {name: value for name, value in named.items() if value is not None}


def load_for(dataset: data.Dataset, path: Path) -> ViT:
    """The model of a checkpoint, if it knows the classes of this data set."""
    model = ViT.load(path)
    must_fit(model, dataset, path)
    return model


def must_fit(model: ViT, dataset: data.Dataset, path: Path) -> None:
    """Raise ValueError if the model tells other classes apart, or none."""
    known, K = model.config.classes, len(dataset.classes)
    if known != K:
        knows = "has no classifier" if known is None else f"knows {known} classes"
        raise ValueError(
            f"{path} does not fit the {dataset.name}: it {knows}, these are {K}; "
            "`train --from` puts a new head on it"
        )


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


def dataset_for(model: ViT, path: Path) -> data.Dataset:
    """The data set whose images a checkpoint takes. Raises ValueError if there is none."""
    name = data_name(model)
    if name is None:
        H, W, C = (*model.config.image_size, model.config.channels)
        raise ValueError(
            f"{path} takes images of {H} x {W} x {C}, which no data set here has: name image files"
        )
    dataset = data.DATASETS[name](n=1)                        # only the held-out part is wanted
    must_fit(model, dataset, path)
    return dataset


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
    classes = model.config.classes
    if args.labels and classes is None:
        raise ValueError(f"{args.weights} has no classifier: it knows no classes to name")
    return data.read_labels(args.labels, classes) if args.labels else None


def given(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """The fields of a dataclass that the command line sets."""
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}


def fail(message: str) -> int:
    """Say in one line what went wrong."""
    print(f"minivit: error: {message}", file=sys.stderr)
    return 1
