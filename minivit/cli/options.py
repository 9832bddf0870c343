"""Options that several commands share, and the types of their values."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..devices import DEVICES, PRECISIONS
from ..data.resampling import RESAMPLING_METHODS
from ..models import PREPROCESSINGS
from ..models.config import GELUS, POOLINGS, POSITIONS
from ..training import PRESETS

CLASS_NAMES = "classes.txt"  # next to a model: the names of its classes, one per line
DATA_HELP = f"{', '.join(PRESETS)}, or a folder of images by class"

Data = str | Path  # a data set: its name, or a folder of images
# The type or the choices of an option, its metavar, and its help.
Option = tuple[Callable[[str], Any] | Sequence[str], str | None, str]


class UsageError(Exception):
    """The options are invalid or do not fit together. The exit status is 2."""


# --- values -----------------------------------------------------------------------------------


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
    """Format a value such that the parser of its option accepts it."""
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
    """Return the option of a field of ViTConfig or Recipe."""
    renamed = {"preprocessing": "--preprocess", "learning_rate": "--lr"}
    return renamed.get(field, "--" + field.replace("_", "-"))


def given_fields(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that the command line sets."""
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: getattr(args, name) for name in names if name in args}


def to_usage_error(error: ValueError) -> UsageError:
    """Convert an error about a field to one about its option."""
    name, _, rest = str(error).partition(" ")
    return UsageError(f"{option_name(name)} {rest}" if "_" in name or rest[:4] == "must" else error)


# --- options ----------------------------------------------------------------------------------

MODEL_OPTIONS: dict[str, Option] = {
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
PREPROCESSING: Option = (PREPROCESSINGS, None, "resizing, cropping and normalisation of images")
FILE_OPTIONS: dict[str, Option] = {  # fields that a file of weights may not contain
    "image_size": (
        parse_size, "N|HxW", "image size in pixels; the position embeddings are resized to it, "
        "unless the file does not state a size and has the right number of positions (default: "
        "from the file)",
    ),
    "heads": (positive, "N", "number of attention heads (default: from the file or its width)"),
    "positions": (
        POSITIONS, None, "position embeddings of a file without a table, such as sincos2d for "
        "big_vision (default: from the layout of the file)",
    ),
    "gelu": (GELUS, None, "GELU: tanh approximation, or exact with erf (default: from the layout)"),
    "norm_eps": (float, "EPS", "epsilon of the layer norms (default: from the layout)"),
    "preprocessing": (
        *PREPROCESSING[:2], f"{PREPROCESSING[2]} (default: from the layout; files of DINO and DeiT "
        "have the layout of timm)",
    ),
}  # fmt: skip


def add_fields(group: Any, options: dict[str, Option], defaults: Any = None) -> None:
    """Add the options of fields. Options that are not used are absent from the namespace."""
    for name, (kind, metavar, text) in options.items():
        if defaults is not None and "default:" not in text:
            text += f" (default: {format_value(name, getattr(defaults, name))})"
        how: dict[str, Any] = {"type": kind, "metavar": metavar}
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        elif not callable(kind):
            how = {"choices": list(kind)}
        how |= {"dest": name, "default": argparse.SUPPRESS, "help": text}
        group.add_argument(option_name(name), **how)


def add_device(parser: argparse.ArgumentParser, precision: bool = True) -> None:
    """Add --device and --precision."""
    text = "device; gpu requires CuPy, auto is a GPU if there is one (default: cpu)"
    parser.add_argument("--device", choices=DEVICES, default="cpu", help=text)
    if precision:
        text = "precision of the inputs of matrix products on a GPU; sums are float32 (default: "
        text += "float32)"
        parser.add_argument("--precision", choices=PRECISIONS, help=text)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add --data of a command that uses a trained model."""
    text = f"data set, resized to the image size of the model: {DATA_HELP} (default: the data set "
    text += "with the image size of the model)"
    parser.add_argument("--data", type=parse_data, metavar="NAME|FOLDER", help=text)


def add_resize(group: Any) -> None:
    """Add --resize."""
    choices = [method for method in RESAMPLING_METHODS if method != "area"]
    text = "interpolation of position embeddings (default: aligned, as in the authors' code)"
    group.add_argument("--resize", choices=choices, default=argparse.SUPPRESS, help=text)


def add_weights(parser: argparse.ArgumentParser, default: Path | None, shown: str) -> None:
    """Add --weights and the group of options about the file."""
    group = parser.add_argument_group("model")
    text = "file or folder with a model of minivit, Google, timm or Hugging Face (default: "
    text += f"{shown})"
    group.add_argument("--weights", type=Path, default=default, metavar="FILE", help=text)
    add_fields(group, FILE_OPTIONS)
    add_resize(group)


def add_image_files(parser: argparse.ArgumentParser) -> None:
    """Add the options about image files."""
    add = parser.add_argument_group("image files").add_argument
    text = f"names of the classes, one per line (default: {CLASS_NAMES} next to the model)"
    add("--labels", type=Path, metavar="FILE", help=text)
    text = "resize the short side to N pixels, then crop the centre (default: as in --preprocess)"
    add("--short-side", type=positive, metavar="N", help=text)
    text = "invert the brightness; digits must be bright on a dark background"
    add("--invert", action="store_true", help=text)
