"""What the commands share: models, data sets and pictures, as the command line names them."""

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .. import data, devices
from ..api import ViT
from ..options.parts import READING, WEIGHTS, as_written
from ..training.presets import PRESETS, get_preset

CLASSES = "classes.txt"  # beside a model: what its classes are called, one on each line


def at_work(args: argparse.Namespace) -> None:
    """Make ready the device that a command is to compute on; of "auto" it becomes what is there.

    `cost` computes nothing unless it measures: it foresees for a GPU that is not there. Raises
    NoGPU for one that is needed.
    """
    asked, precision = getattr(args, "device", "cpu"), getattr(args, "precision", None)
    if precision and asked == "cpu":
        args.usage_error("--precision is of a GPU's products: it goes with --device gpu or auto")
    if not getattr(args, "measure", True):
        return
    args.device = devices.resolve_device(asked)
    if precision and args.device == "gpu":
        devices.set_matmul_precision(precision)


def load(path: Path, **fields: Any) -> ViT:
    """The model of a file. Raises FileNotFoundError that says how the usual one is made."""
    return ViT.load(usual_weights() if path == WEIGHTS else path, **fields)


def usual_weights(named: str | Path | None = None) -> Path:
    """Where `train` leaves the model of a data set, or of the digits.

    Raises FileNotFoundError if it has not, which tells how it is made.
    """
    path = Path("runs") / name_of(named or "digits") / "model.npz"
    if not path.exists():
        option = f" --data {shlex.quote(as_written(named))}" if named else ""
        raise FileNotFoundError(
            f"there is no {path} yet: `python -m minivit train{option}` makes it"
        )
    return path


def name_of(named: str | Path) -> str:
    """What the outputs of a training on a data set, or on a folder, are called."""
    return named.resolve().name if isinstance(named, Path) else named


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """How a file of weights is to be read, as far as the command line says."""
    if args.resize and args.image_size is None:
        args.usage_error("--resize is how positions become those of another --image-size: say it")
    named = {name: getattr(args, name) for name in READING}
    return {name: value for name, value in named.items() if value is not None}


def must_fit(model: ViT, dataset: data.Dataset, path: Path) -> None:
    """Raise ValueError if the model tells another number of classes apart, or none.

    Of classes that are called otherwise than in the file beside the model, a note is printed.
    """
    known, K = model.config.classes, len(dataset.classes)
    if known != K:
        knows = "has no classifier for" if known is None else f"knows {known} classes, not"
        raise ValueError(
            f"{path} does not fit the {dataset.name}: it {knows} their {K}; "
            "`train --from` puts a new head on it"
        )
    beside = names_beside(path)
    if beside and data.read_labels(beside, K) != [name.strip() for name in dataset.classes]:
        note = f"note: the {dataset.name} have other classes, or call them otherwise, than {beside}"
        print(note, file=sys.stderr)


def must_classify(model: ViT, path: Path) -> None:
    """Raise ValueError if the model has no classifier."""
    if model.config.classes is None:
        raise ValueError(f"{path} has no classifier: it knows no classes to name")


def fit(dataset: data.Dataset, model: ViT) -> data.Dataset:
    """The data set with its images as the model takes them."""
    c = model.config
    return data.resize_dataset(dataset, c.image_size, c.channels, c.preprocessing)


def data_name(model: ViT) -> str | None:
    """The name of the data set whose images a model takes, or None.

    Where several have images of this size, it is the one of as many classes.
    """
    c, takes = model.config, (*model.config.image_size, model.config.channels)
    shapes = {name: get_preset(name).model for name in PRESETS}
    fitting = [
        name
        for name, shape in shapes.items()
        if takes == (shape["image_size"], shape["image_size"], shape["channels"])
    ]
    if len(fitting) > 1:
        fitting = [name for name in fitting if shapes[name]["classes"] == c.classes]
    return fitting[0] if len(fitting) == 1 else None


def dataset_for(model: ViT, args: argparse.Namespace, n: int = 1) -> data.Dataset:
    """The data set that was named, or else fits, as the model takes it.

    n: how many images to train on, but of a folder all. Raises ValueError if none was named, and
    none or more than one fits.
    """
    name = args.data or data_name(model)
    if name is None:
        H, W, C = (*model.config.image_size, model.config.channels)
        takes = f"{args.weights} takes images of {H} x {W} x {C}"
        raise ValueError(f"{takes}: say with --data which are to be fitted")
    return fit(read_data(name, model, n), model)


def read_data(name: str | Path, model: ViT, n: int | None = None) -> data.Dataset:
    """The data set of a name, or the images in a folder, which are read as the model takes them.

    n: how many images to train on (None: as many as are usual); of a folder all.
    """
    if isinstance(name, Path):
        c = model.config
        found = data.load_folder(name, c.image_size, c.channels, preprocessing=c.preprocessing)
        return found._replace(source=str(name.resolve()))
    found = data.DATASETS[name]() if n is None else data.DATASETS[name](n=n)
    return found._replace(source=name)


def takes_photographs(model: ViT) -> bool:
    """Whether its images are coloured, and none of the data sets here is of their size."""
    return model.config.channels == 3 and data_name(model) is None


def read_images(model: ViT, args: argparse.Namespace) -> np.ndarray:
    """The image files of the command line, as the model takes them."""
    size, channels = model.config.image_size, model.config.channels
    how = data.get_preprocessing(model.config.preprocessing, size)
    if args.short_side is not None:
        how = dataclasses.replace(how, short_side=args.short_side)
    images = np.stack([data.read_image(path, size, channels, how) for path in args.images])
    return how.invert(images) if args.invert else images


def labels_of(model: ViT, args: argparse.Namespace) -> list[str] | None:
    """The names of a model's classes, if a file of them was given or lies beside the model."""
    path = args.labels or names_beside(args.weights)
    if path is None:
        return None
    must_classify(model, args.weights)
    return data.read_labels(path, model.config.classes)


def names_beside(weights: Path) -> Path | None:
    """The file of names that `train` left beside a model, if it did."""
    path = weights.with_name(CLASSES)
    return path if weights.name == "model.npz" and path.is_file() else None


def given(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """The fields of a dataclass that the command line sets."""
    names = [field.name for field in dataclasses.fields(kind)]
    values = {name: getattr(args, name, None) for name in names}
    said = {name: value for name, value in values.items() if value is not None}
    if said.get("stem") == "none":
        said["stem"] = None
    return said


def fail(message: str) -> int:
    """Say in one line what went wrong."""
    print(f"minivit: error: {message}", file=sys.stderr)
    return 1
