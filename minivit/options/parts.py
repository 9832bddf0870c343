"""What several commands can be told: which images and weights, and how these are read."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.resampling import RESAMPLING_METHODS
from ..devices import DEVICES, PRECISIONS
from ..models.config import GELUS, POSITIONS, PREPROCESSINGS
from ..training.presets import PRESETS

READING = ("image_size", "resize", "heads", "positions", "gelu", "norm_eps", "preprocessing")
WEIGHTS = Path("runs/digits/model.npz")
DATA = f"{', '.join(PRESETS)}, or a folder of images by class"


def command(commands: Any, name: str, summary: str, examples: list[str]) -> argparse.ArgumentParser:
    """A command of this name, and what its help says before and after the options."""
    sub = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog="\n".join(["examples:", *(f"  python -m minivit {e}" for e in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(command=name, usage_error=sub.error)
    return sub


def option(name: str) -> str:
    """The option that sets a field."""
    renamed = {"preprocessing": "--preprocess", "learning_rate": "--lr"}
    return renamed.get(name, "--" + name.replace("_", "-"))


def weights(
    sub: argparse.ArgumentParser, default: Path | None = WEIGHTS, name: str = str(WEIGHTS)
) -> None:
    """Which model."""
    text = f"the model, minivit's or anyone's: a file or a folder ({name})"
    sub.add_argument("--weights", type=Path, default=default, metavar="FILE", help=text)


def device(sub: argparse.ArgumentParser, products: bool = True) -> None:
    """Where to compute and, of products, how exactly."""
    text = "where to compute: a GPU needs CuPy; auto takes one if it is there (cpu)"
    sub.add_argument("--device", choices=DEVICES, default="cpu", help=text)
    if products:
        text = "of the products on a GPU, added up in float32 in any case (float32)"
        sub.add_argument("--precision", choices=PRECISIONS, help=text)


def images(add: Callable[..., Any]) -> None:
    """Which images to try a model on."""
    text = f"the images, resized to those that the model takes: {DATA} (those that fit)"
    add("--data", type=data_set, metavar="NAME|FOLDER", help=text)


def photographs(sub: argparse.ArgumentParser) -> None:
    """How image files become images, and what their classes are called."""
    add = sub.add_argument_group("image files").add_argument
    add("--labels", type=Path, metavar="FILE", help="the names of the classes, one on each line")
    text = "scale their short side to N pixels, then cut out the middle"
    add("--short-side", type=positive, metavar="N", help=text)
    text = "for dark ink on white paper: the digits are light on dark"
    add("--invert", action="store_true", help=text)


def reading(sub: argparse.ArgumentParser) -> None:
    """What the names and shapes in a file of weights do not tell, or should be otherwise."""
    add = sub.add_argument_group("reading the weights").add_argument
    text = "pixels of an image (the file's): positions are resized, but where a bare file has just"
    text += " as many as the size has patches, they are taken as they are"
    add("--image-size", type=size, metavar="N|HxW", help=text)
    resize(add)
    text = "of each attention, k (as the file or a usual width tells)"
    add("--heads", type=positive, metavar="N", help=text)
    text = "for a file without a table: sincos2d for big_vision's (as its origin has it)"
    add("--positions", choices=list(POSITIONS), help=text)
    add("--gelu", choices=list(GELUS), help="(as the file's origin has it)")
    add("--norm-eps", type=float, metavar="X", help="in the layer norms (as its origin has it)")
    preprocess(add, "as the file's origin has it; DINO's and DeiT's look like timm's")


def resize(add: Callable[..., Any]) -> None:
    """How positions become those of another size."""
    choices = [method for method in RESAMPLING_METHODS if method != "area"]
    add("--resize", choices=choices, help="the method for positions (aligned, as the authors do)")


def preprocess(add: Callable[..., Any], default: str) -> None:
    """Whose rules bring pictures to a model."""
    text = f"how pictures are brought to it, and the colours of a data set ({default})"
    add("--preprocess", dest="preprocessing", choices=list(PREPROCESSINGS), help=text)


def data_set(text: str) -> str | Path:
    """A data set as written: its name, or a folder. Raises ArgumentTypeError."""
    if text in PRESETS:
        return text
    if not (text and Path(text).is_dir()):
        raise argparse.ArgumentTypeError(f"is {DATA}; there is no folder {text or 'of no name'}")
    return Path(text)


def as_written(named: str | Path) -> str:
    """What `data_set` reads as this one; a folder may be called as a data set is."""
    text = str(named)
    return f"./{text}" if isinstance(named, Path) and text in PRESETS else text


def size(text: str) -> int | tuple[int, int]:
    """An image's size as written: one number, or height and width. Raises ArgumentTypeError."""
    sides = text.split("x")
    if len(sides) > 2 or (len(sides) == 2 and not all(sides)):
        raise argparse.ArgumentTypeError(f"is one number, or height and width as HxW, not {text}")
    height, width = positive(sides[0]), positive(sides[-1])
    return height if len(sides) == 1 else (height, width)


def stem(text: str) -> tuple[int, ...] | str:
    """A hybrid's stem as written: units of its stages, "root", "none". Raises ArgumentTypeError."""
    if text in ("root", "none"):
        return () if text == "root" else text
    return tuple(positive(units) for units in text.split(","))


def positive(text: str) -> int:
    """A whole number from 1 up as written. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        text = text or "nothing"
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, not {text}")
    return int(text)
