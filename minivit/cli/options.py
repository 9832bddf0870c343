"""Options that several commands share, and the types of their values."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.resampling import RESAMPLING_METHODS
from ..devices import DEVICES, PRECISIONS
from ..models import PREPROCESSINGS
from ..models.config import GELUS, POOLINGS, POSITIONS
from ..training import PRESETS

CLASS_NAMES = "classes.txt"  # next to a model: the names of its classes, one per line
DATA_HELP = f"{', '.join(PRESETS)}, or a folder of images by class"
MODEL_FILE = "a file or folder of minivit, Google, timm or Hugging Face"

Data = str | Path  # a data set: its name, or a folder of images
# By field: the type or the choices of an option, its metavar, its help and possibly its default.
Options = Mapping[str, tuple[Any, ...]]


class UsageError(Exception):
    """The options are invalid or contradict each other. The exit status is 2."""


def positive(text: str) -> int:
    """Parse a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, not '{text}'")
    return int(text)


def parse_size(text: str) -> int | tuple[int, int]:
    """Parse an image size, N or HxW."""
    sides = text.split("x")
    if len(sides) > 2 or not all(sides):
        raise argparse.ArgumentTypeError(f"expected N or HxW, not '{text}'")
    height, width = positive(sides[0]), positive(sides[-1])
    return height if len(sides) == 1 else (height, width)


def parse_stem(text: str) -> tuple[int, ...] | None:
    """Parse the stem of a hybrid: the units per stage, "root" or "none"."""
    if text in ("root", "none"):
        return () if text == "root" else None
    return tuple(positive(units) for units in text.split(","))


def parse_data(text: str) -> Data:
    """Parse the name of a data set or the path of a folder."""
    if text in PRESETS:
        return text
    if not (text and Path(text).is_dir()):
        raise argparse.ArgumentTypeError(f"there is no folder '{text}'; choose {DATA_HELP}")
    return Path(text)


def format_value(name: str, value: Any) -> str:
    """Format the value of an option as the command line accepts it; None is "none"."""
    if value is None or isinstance(value, bool):
        return {None: "none", False: "no", True: "yes"}[value]
    if name == "stem":
        return ",".join(map(str, value)) or "root"
    if name == "image_size":
        H, W = value
        return str(H if H == W else f"{H}x{W}")
    if isinstance(value, Path) and str(value) in PRESETS:  # a folder with the name of a data set
        return f"./{value}"
    return str(value)


def option_name(field: str) -> str:
    """Return the option of a field."""
    renamed = {"preprocessing": "--preprocess", "learning_rate": "--lr", "origin": "--from"}
    return renamed.get(field, "--" + field.replace("_", "-"))


def given_fields(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that the command line sets."""
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: getattr(args, name) for name in names if name in args}


def to_usage_error(error: ValueError) -> UsageError:
    """Convert an error about a field to one about its option."""
    name, _, rest = str(error).partition(" ")
    if "_" in name or rest.startswith("must"):
        return UsageError(f"{option_name(name)} {rest}")
    return UsageError(str(error))


MODEL = {
    "image_size": (parse_size, "N|HxW", "image size in pixels"),
    "patch_size": (positive, "P", "side of a patch in pixels, or in entries of a stem's output"),
    "width": (positive, "D", "width of a token"),
    "depth": (positive, "L", "number of encoder blocks"),
    "heads": (positive, "N", "number of attention heads, a divisor of the width"),
    "mlp_width": (positive, "M", "width of the hidden layer of an MLP"),
    "positions": (POSITIONS, None, "position embeddings"),
    "pooling": (POOLINGS, None, "input of the head: class token, or mean of the patch tokens"),
    "hidden_head": (positive, "N", "width of a hidden tanh layer in the head"),
    "gelu": (GELUS, None, "GELU: tanh approximation, or exact with erf"),
    "dropout": (float, "RATE", "dropout rate in training, 0 to 1"),
    "drop_path": (float, "RATE", "drop-path rate of the last block, 0 to 1; the first has rate 0"),
    "stem": (parse_stem, "N,N|root|none", "hybrid: ResNet units per stage, such as 3,4,9"),
    "stem_width": (positive, "F", "channels of the root of the stem, a multiple of 32"),
}
PREPROCESSING = (PREPROCESSINGS, None, "resizing, cropping and normalisation of images")
FILE = {  # fields that a file of weights may not contain
    "image_size": (parse_size, "N|HxW", "image size in pixels (default: from the file)"),
    "heads": (positive, "N", "number of attention heads (default: from the file, or usual for the "
        "width)"),
    "positions": (POSITIONS, None, "position embeddings, such as sincos2d for a file of big_vision "
        "(default: from the layout of the file)"),
    "gelu": (GELUS, None, "GELU: tanh approximation, or exact with erf (default: from the layout)"),
    "norm_eps": (float, "EPS", "epsilon of the layer norms (default: from the layout)"),
    "preprocessing": (*PREPROCESSING[:2], f"{PREPROCESSING[2]}; files of DINO and DeiT have the "
        "layout of timm (default: from the layout)"),
}  # fmt: skip
RESIZE = (
    tuple(method for method in RESAMPLING_METHODS if method != "area"), None,
    "interpolation of position embeddings to --image-size (default: aligned)",
)  # fmt: skip
SHARDS = (positive, "N", "parallel parts of a batch (default: from the CPU cache and threads)")
THREADS = (positive, "N", "CPU threads per training step (default: all cores)", None)
DEVICE = {
    "device": (DEVICES, None, "device; gpu requires CuPy, auto uses a GPU if there is one "
        "(default: cpu)", "cpu"),
    "precision": (PRECISIONS, None, "precision of the inputs of matrix products on a GPU; sums are "
        "float32 (default: float32)", None),
}  # fmt: skip
DATA = (parse_data, "NAME|FOLDER", f"data set, resized for the model: {DATA_HELP} (default: the "
    "one with the image size of the model)", None)  # fmt: skip
IMAGE_FILES = {
    "labels": (Path, "FILE", "names of the classes, one per line (default: classes.txt next to the "
        "model)", None),
    "short_side": (positive, "N", "resize the short side to N pixels before cropping (default: as "
        "in --preprocess)", None),
    "invert": (bool, None, "invert the brightness, for dark digits on white paper", False),
}  # fmt: skip


def add_options(group: Any, options: Options, defaults: Any = None) -> None:
    """Add options. Those without a default are absent from the parsed arguments if not used.

    `defaults` contains the values that are shown as defaults.
    """
    for name, (kind, metavar, text, *default) in options.items():
        if defaults is not None and "default:" not in text:
            text += f" (default: {format_value(name, getattr(defaults, name))})"
        how: dict[str, Any] = {"type": kind, "metavar": metavar}
        if kind is bool:
            how = {"action": "store_true" if default else argparse.BooleanOptionalAction}
        elif not callable(kind):
            how = {"choices": kind, "metavar": metavar}
        action = group.add_argument(option_name(name), dest=name, help=text, **how)
        action.default = default[0] if default else argparse.SUPPRESS


def add_weights(parser: argparse.ArgumentParser, default: Path | None, shown: str) -> None:
    """Add --weights, the options about the file, and those about the device."""
    weights = (Path, "FILE", f"the model: {MODEL_FILE} (default: {shown})", default)
    group = parser.add_argument_group("model")
    add_options(group, {"weights": weights} | FILE | {"resize": RESIZE})
    add_options(parser, DEVICE)
