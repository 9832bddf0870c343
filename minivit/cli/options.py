"""Options that several commands share, and the types of their values."""

import argparse
import dataclasses
import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..data.images import MAX_PIXELS as DEFAULT_MAX_PIXELS
from ..data.resampling import RESAMPLING_METHODS
from ..devices import DEVICES, PRECISIONS
from ..models import PREPROCESSINGS
from ..models.config import GELUS, POOLINGS, POSITIONS
from ..training import PRESETS

DATA_HELP = f"{', '.join(PRESETS)}, or a folder with one subfolder of images per class"
PILLOW_MAX_PIXELS = 178_956_970  # Pillow refuses to read images with more pixels
MODEL_FILE = "a file or folder in the format of minivit, Google, timm or Hugging Face"

Data = str | Path  # a data set: its name, or a folder of images
# {name: (type or choices, metavar, help)}, with the default as an optional fourth value
Options = Mapping[str, tuple[Any, ...]]


class UsageError(Exception):
    """The arguments are invalid or contradict each other. The exit status is 2."""


def integer(text: str, expected: str = "an integer", minimum: int = -(10**18)) -> int:
    """Parse an integer. More than 18 digits are rejected, because no option needs them."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text) or int(text) < minimum:
        limit = " of at most 18 digits" if re.fullmatch(r"-?[0-9]{19,}", text) else ""
        raise argparse.ArgumentTypeError(f"expected {expected}{limit}, not '{text:.40}'")
    return int(text)


def positive(text: str) -> int:
    """Parse a positive integer."""
    return integer(text, "a positive integer", 1)


def number(text: str) -> float:
    """Parse a number."""
    try:
        if text.isascii() and "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number, not '{text:.40}'")


def parse_pixels(text: str) -> int:
    """Parse the maximum number of pixels of a file, up to the limit of Pillow."""
    pixels = positive(text)
    if pixels > PILLOW_MAX_PIXELS:
        raise argparse.ArgumentTypeError(f"expected at most {PILLOW_MAX_PIXELS:,}, not {pixels:,}")
    return pixels


def parse_path(text: str) -> Path:
    """Parse a path."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected a path, not '{text:.40}'")
    try:
        os.lstat(text)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:  # for example a name that is too long
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"'{text:.40}' is not a path: {reason}") from None
    return Path(text)


def parse_size(text: str) -> int | tuple[int, int]:
    """Parse an image size, N or HxW."""
    sides = text.split("x")
    if len(sides) > 2 or not all(sides):
        raise argparse.ArgumentTypeError(f"expected N or HxW, not '{text}'")
    height, width = positive(sides[0]), positive(sides[-1])
    return height if len(sides) == 1 else (height, width)


def parse_layer(text: str) -> int | str:
    """Parse a layer, or "all"."""
    return text if text == "all" else integer(text, "an integer or all")


def parse_patch(text: str) -> tuple[int, int]:
    """Parse the row and the column of a patch."""
    numbers = text.split(",")
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(f"expected ROW,COL, not '{text:.40}'")
    return positive(numbers[0]), positive(numbers[1])


def parse_classes(text: str) -> int | None:
    """Parse a number of classes; 0 means no classifier."""
    return None if text == "0" else positive(text)


def parse_stem(text: str) -> tuple[int, ...] | None:
    """Parse the stem of a hybrid: "none", "root", or the units per stage."""
    if text in ("root", "none"):
        return () if text == "root" else None
    return tuple(positive(units) for units in text.split(","))


def parse_data(text: str) -> Data:
    """Parse the name of a data set or the path of a folder."""
    if text in PRESETS:
        return text
    if not parse_path(text).is_dir():
        hint = suggestion(text, PRESETS) or f"choose {DATA_HELP}"
        raise argparse.ArgumentTypeError(f"there is no data set or folder '{text}'; {hint}")
    return Path(text)


def parse_choice(text: str, choices: Collection[str]) -> str:
    """Parse one of several words."""
    if text not in choices:
        hint = suggestion(text, choices) or f"choose {', '.join(choices)}"
        raise argparse.ArgumentTypeError(f"unknown value '{text:.40}'; {hint}")
    return text


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return "did you mean ...?" with the most similar choice, or "" if none is similar."""
    similar = difflib.get_close_matches(word, choices, n=1)
    return f"did you mean '{similar[0]}'?" if similar else ""


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
    """Return the option that sets a field."""
    renamed = {"preprocessing": "--preprocess", "learning_rate": "--lr", "origin": "--from"}
    return renamed.get(field, "--" + field.replace("_", "-"))


def parsed_fields(args: argparse.Namespace, config_class: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that the command line sets."""
    names = [field.name for field in dataclasses.fields(config_class)]
    return {name: getattr(args, name) for name in names if name in args}


def to_usage_error(error: ValueError) -> UsageError:
    """Convert an error about a field into an error about its option."""
    name, _, rest = str(error).partition(" ")
    if "_" in name or rest.startswith("must"):
        return UsageError(f"{option_name(name)} {rest}")
    return UsageError(str(error))


FIELDS = {  # of ViTConfig
    "image_size": (parse_size, "N|HxW", "image size in pixels"),
    "patch_size": (positive, "P", "side of a patch in pixels of the image or stem's feature map"),
    "channels": (positive, "C", "channels of the image"),
    "classes": (parse_classes, "K", "number of classes; 0 for a model without a classifier"),
    "width": (positive, "D", "width of the tokens"),
    "depth": (positive, "L", "number of encoder blocks"),
    "heads": (positive, "N", "number of attention heads, a divisor of the width"),
    "mlp_width": (positive, "M", "width of the hidden layer of each MLP"),
    "positions": (POSITIONS, None, "position embeddings; big_vision uses sincos2d"),
    "pooling": (POOLINGS, None, "input of the head: class token, or mean of the patch tokens"),
    "hidden_head": (positive, "N", "width of a hidden tanh layer in the head"),
    "gelu": (GELUS, None, "GELU: tanh approximation, or exact with erf"),
    "norm_eps": (number, "EPS", "epsilon of the layer norms"),
    "dropout": (number, "RATE", "dropout rate in training, 0 to 1"),
    "drop_path": (number, "RATE", "drop-path rate of the last block; the first block has rate 0"),
    "position_std": (number, "STD", "standard deviation of the initial position embeddings"),
    "qkv_bias": (bool, None, "bias of the queries, keys and values"),
    "patch_bias": (bool, None, "bias of the patch embedding"),
    "stem": (parse_stem, "N,N|root|none", "ResNet stem of a hybrid: none, root (no stages), or "
        "units per stage such as 3,4,9"),
    "stem_width": (positive, "F", "channels of the stem's root convolution, a multiple of 32"),
    "preprocessing": (PREPROCESSINGS, None, "resizing, cropping and normalisation of images; DINO "
        "and DeiT use dino"),
}  # fmt: skip
FILE = {  # fields that some weight files do not contain
    name: (*FIELDS[name][:2], f"{FIELDS[name][2]} (default: inferred from the file)")
    for name in ("image_size", "heads", "positions", "gelu", "norm_eps", "preprocessing")
}
RESIZE = (
    tuple(method for method in RESAMPLING_METHODS if method != "area"), None,
    "interpolation of position embeddings to --image-size (default: aligned)",
)  # fmt: skip
SHARDS = (positive, "N", "shards of a batch (default: depends on the CPU cache and the threads)")
THREADS = (positive, "N", "CPU threads per training step (default: all cores)", None)
DEVICE = {
    "device": (DEVICES, None, "device; gpu requires CuPy, auto uses a GPU if there is one "
        "(default: cpu)", "cpu"),
    "precision": (PRECISIONS, None, "precision of the factors of matrix products on a GPU; sums "
        "are accumulated in float32 (default: float32)", None),
}  # fmt: skip
DATA = (parse_data, "NAME|FOLDER", f"data set, resized for the model: {DATA_HELP} (default: the "
    "only one with the model's image size)", None)  # fmt: skip
MAX_PIXELS = {
    "max_pixels": (parse_pixels, "N", "skip or reject image files with more than N pixels "
        f"(default: {DEFAULT_MAX_PIXELS:,})", DEFAULT_MAX_PIXELS),
}  # fmt: skip
IMAGE_FILES = {
    "labels": (parse_path, "FILE", "names of the classes, one per line (default: classes.txt or "
        "config.json next to the model; of ImageNet for 1,000 classes)", None),
    "short_side": (positive, "N", "resize the short side to N pixels before cropping (default: "
        "according to --preprocess)", None),
    "invert": (bool, None, "invert the brightness, for dark digits on white paper", False),
}  # fmt: skip


def add_options(group: Any, options: Options, defaults: Any = None) -> None:
    """Add options to a parser or a group. The help shows the values of `defaults`.

    An option without a default is absent from the parsed arguments unless it is used.
    """
    for name, (values, metavar, text, *default) in options.items():
        if defaults is not None and "default:" not in text:
            text += f" (default: {format_value(name, getattr(defaults, name))})"
        settings: dict[str, Any] = {"type": values, "metavar": metavar}
        if values is bool:
            settings = {"action": "store_true" if default else argparse.BooleanOptionalAction}
        elif not callable(values):
            settings["type"] = partial(parse_choice, choices=values)
            settings["metavar"] = metavar or f"{{{','.join(values)}}}"
        action = group.add_argument(option_name(name), dest=name, help=text, **settings)
        action.default = default[0] if default else argparse.SUPPRESS


def add_weights(parser: argparse.ArgumentParser, default: Path | None, text: str) -> None:
    """Add --weights, the options for its file, and those for the device."""
    weights = (parse_path, "PATH", f"model: {MODEL_FILE} (default: {text})", default)
    group = parser.add_argument_group("model")
    add_options(group, {"weights": weights} | FILE | {"resize": RESIZE})
    add_options(parser.add_argument_group("device"), DEVICE)
