"""Functions used by several commands: devices, models, data sets and image files."""

import argparse
import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np

from .. import data, devices
from ..api import ViT
from ..layers import softmax
from ..models import ViTConfig
from ..terminal import escape, print_message
from ..training import PRESETS, get_preset
from .memory import check_attention
from .options import FILE, Data, UsageError, format_value, option_name

DARK = ("digits", "scattered", "mnist", "fashion-mnist")  # data sets with a dark background
NEW_HEAD = "Add a new head with `train --from`"


def select_device(args: argparse.Namespace) -> None:
    """Resolve --device and apply --precision. Raise NoGPUError if --device gpu finds no GPU."""
    precision = getattr(args, "precision", None)
    if precision and args.device == "cpu":
        raise UsageError("--precision requires --device gpu or auto")
    args.device = devices.resolve_device(args.device)
    if precision and args.device == "gpu":
        devices.set_matmul_precision(precision)


def output_name(source: Data) -> str:
    """Return the name of the output folder for a data set or a folder of images."""
    return source.resolve().name if isinstance(source, Path) else source


def load_model(args: argparse.Namespace) -> ViT:
    """Load the model of --weights or, by default, the model that `train` saved for --data."""
    if args.weights is None:
        source = getattr(args, "data", None)
        args.weights = Path("runs", output_name(source or "digits"), "model.npz")
        if not args.weights.exists():
            option = f" --data {shlex.quote(format_value('data', source))}" if source else ""
            raise FileNotFoundError(
                f"{args.weights} does not exist. Train a model with `python -m minivit "
                f"train{option}`, or pass --weights"
            )
    model = load_file(args.weights, args, args.device)
    check_attention(model.config)
    return model


def load_file(path: Path, args: argparse.Namespace, device: str = "cpu") -> ViT:
    """Load a model, with the fields that --image-size, --heads and similar options set."""
    if "resize" in args and "image_size" not in args:
        raise UsageError("--resize requires --image-size")
    fields = {name: getattr(args, name) for name in (*FILE, "resize") if name in args}
    try:
        return ViT.load(path, device=device, **fields)
    except ValueError as error:
        message = str(error)
        for name in [name for name in fields if "_" in name]:  # name the option
            message = re.sub(rf"\b{name}\b", option_name(name), message)
        raise ValueError(message) from None


def find_matching_data(config: ViTConfig) -> str | None:
    """Return the name of the data set that matches a model's image size and channels, or None."""
    presets = {name: ViTConfig(**get_preset(name).model) for name in PRESETS}
    shape = (config.image_size, config.channels)
    names = [name for name, c in presets.items() if (c.image_size, c.channels) == shape]
    if len(names) > 1:  # the number of classes decides
        names = [name for name in names if presets[name].classes == config.classes]
    return names[0] if len(names) == 1 else None


def takes_photographs(model: ViT) -> bool:
    """Return whether a model takes photographs: colour images of a size that no data set has."""
    return model.config.channels == 3 and find_matching_data(model.config) is None


def load_data(
    source: Data, model: ViT, n: int | None = None, max_pixels: int = data.MAX_PIXELS
) -> data.Dataset:
    """Load a named data set at its native resolution, or a folder of images resized for the model.

    n: number of training images of a named data set, by default all. max_pixels: see `read_image`
    """
    if isinstance(source, Path):
        c = model.config
        dataset = data.load_folder(
            source, c.image_size, c.channels,
            preprocessing=c.preprocessing, max_pixels=max_pixels,
        )  # fmt: skip
        return dataset._replace(source=str(source.resolve()))
    dataset = data.DATASETS[source]() if n is None else data.DATASETS[source](n=n)
    return dataset._replace(source=source)


def resize_data(dataset: data.Dataset, model: ViT) -> data.Dataset:
    """Resize a data set for a model."""
    c = model.config
    return data.resize_dataset(dataset, c.image_size, c.channels, c.preprocessing)


def load_held_out(model: ViT, args: argparse.Namespace, n: int | None = None) -> data.Dataset:
    """Load the data set of --data, or the one that matches the model, resized for the model.

    n: number of training images, or None to use only the held-out images. If n is None, the model
    must have as many classes as the data set. A note is printed if the class names differ.
    """
    source = args.data or find_matching_data(model.config)
    if source is None:
        H, W, C = (*model.config.image_size, model.config.channels)
        raise ValueError(
            f"{args.weights} takes images of {H} x {W} x {C}. The data set cannot be inferred "
            "from this shape. Select one with --data"
        )
    dataset = resize_data(load_data(source, model, n or 1, args.max_pixels), model)
    if n is None:
        check_classes(model, dataset, args.weights, NEW_HEAD)
        names = [name.strip() for name in dataset.classes]
        if model.class_names and list(model.class_names) != names:
            text = (
                f"note: the class names of the {dataset.name} differ from those of {args.weights}"
            )
            print_message(text)
    return dataset


def check_classes(model: ViT, dataset: data.Dataset, path: Path, advice: str) -> None:
    """Raise ValueError unless the model has as many classes as the data set."""
    classes, K = model.config.classes, len(dataset.classes)
    if classes != K:
        has = "no classifier" if classes is None else f"{classes} classes"
        raise ValueError(f"{path} has {has}, but the {dataset.name} have {K} classes. {advice}")


def check_classifier(model: ViT, path: Path) -> int:
    """Return the number of classes. Raise ValueError if the model has no classifier."""
    if model.config.classes is None:
        raise ValueError(f"{path} has no classifier. {NEW_HEAD}")
    return model.config.classes


def read_images(model: ViT, args: argparse.Namespace) -> np.ndarray:
    """Read the image files, preprocessed for the model.  ->  (B, H, W, C)"""
    size, channels = model.config.image_size, model.config.channels
    preprocessing = data.get_preprocessing(model.config.preprocessing, size)
    if args.short_side is not None:
        preprocessing = dataclasses.replace(preprocessing, short_side=args.short_side)
    images = [
        data.read_image(path, size, channels, preprocessing, args.max_pixels)
        for path in args.images
    ]
    for path, image in zip(args.images, images, strict=True):
        warn_about_image(path, image, model, args)
    return preprocessing.invert(np.stack(images)) if args.invert else np.stack(images)


def warn_about_image(path: Path, image: np.ndarray, model: ViT, args: argparse.Namespace) -> None:
    """Print a warning if an image does not look like those for which the model was made."""
    (H, W), channels = model.config.image_size, model.config.channels
    edge = np.concatenate([image[[0, -1]].ravel(), image[:, [0, -1]].ravel()])
    if mismatch := data.describe_mismatch(path, (H, W), channels):
        kind = "grey" if channels == 1 else "colour"
        print_message(
            f"warning: {escape(path)} {mismatch}, but {args.weights} expects {kind} images of "
            f"{H} x {W} pixels"
        )
    elif not args.invert and find_matching_data(model.config) in DARK and edge.mean() > 0:
        print_message(
            f"warning: {escape(path)} has a bright background, but {args.weights} expects a "
            "dark one. Pass --invert"
        )


def read_class_names(model: ViT, args: argparse.Namespace) -> None:
    """Replace the names of the model's classes by those of --labels."""
    if args.labels:
        classes = check_classifier(model, args.weights)
        model.class_names = data.read_labels(args.labels, classes)


def print_predictions(
    model: ViT, images: np.ndarray, args: argparse.Namespace, top: int = 3
) -> np.ndarray:
    """Print the most likely classes of each image file. Return the probabilities (B, K)."""
    names = model.class_names
    probabilities, _ = softmax(model(images))
    for path, p in zip(args.images, probabilities, strict=True):
        best = np.argsort(-p)[:top]
        if names is None:
            print(f"{escape(path)}: " + ", ".join(f"{c} ({p[c]:.1%})" for c in best))
        else:
            print("\n".join([escape(path), *(f"{p[c]:8.1%}  {names[c]}" for c in best)]))
    return probabilities
