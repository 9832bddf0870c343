"""Image files in, arrays out."""

import errno
import re
import warnings
from pathlib import Path

import numpy as np
from matplotlib import cbook
from PIL import Image, ImageOps, UnidentifiedImageError

from ..arrays import Array
from .preprocessing import Preprocessing, get_preprocessing, preprocess

SYSTEM_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # no fault of the file that was opened


def read_image(
    path: str | Path,
    size: tuple[int, int],
    channels: int,
    preprocessing: str | Preprocessing = "minivit",
) -> Array:
    """A picture from a file, brought to (height, width): (H, W, C), float32.

    preprocessing: the name of a family, or rules of one's own; "minivit" squashes the picture
    into the image and scales it to [-1, 1]. channels 1 makes it grey, 3 coloured; what is
    transparent shows white paper, a camera that was held upright is believed, and of an animation
    the first picture is taken. Raises FileNotFoundError, or ValueError if the file is empty or no
    image that Pillow can read, and for what `Preprocessing` refuses.
    """
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise ValueError(f"{path}: a picture has 1 or 3 channels, the model takes {channels}")
    check_file(path)
    named = isinstance(preprocessing, str)
    how = get_preprocessing(preprocessing, size) if named else preprocessing
    silence_pillow_warnings()
    try:
        with Image.open(path) as picture:
            picture.load()
            picture = remove_transparency(to_eight_bits(apply_orientation(picture))).convert(
                modes[channels]
            )
    except UnidentifiedImageError:
        raise ValueError(f"{path} cannot be read as an image: cannot identify its kind") from None
    except Exception as reason:  # each of Pillow's readers has its own kinds
        if isinstance(reason, MemoryError) or getattr(reason, "errno", None) in SYSTEM_ERRORS:
            raise
        said = getattr(reason, "strerror", None) or reason  # without the path once more
        raise ValueError(f"{path} cannot be read as an image: {said}") from None
    try:
        return preprocess(picture, size, how)
    except ValueError as reason:
        raise ValueError(f"{path}: {reason}") from None


def silence_pillow_warnings() -> None:
    """No warnings of damaged or large files: they are read, or refused in words of our own.

    For good: a filter set for one file and taken back would, where several threads read, be taken
    back while another reads, or never.
    """
    silence = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if warnings.filters[:1] != [silence]:  # a change makes Python forget what it has warned of
        warnings.filterwarnings("ignore", module=r"PIL\.")


def check_file(path: str | Path) -> None:
    """Raise FileNotFoundError if it is a folder, or nothing."""
    if Path(path).is_dir():
        raise FileNotFoundError(f"{path} is a folder: a file is wanted")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")


def sample_photograph() -> Path:
    """A photograph that needs no download: Grace Hopper, 1985, from matplotlib's sample data."""
    return Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))


def apply_orientation(picture: Image.Image) -> Image.Image:
    """The picture turned as the camera was held, if it noted that in a way that can be read."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # the notes are damaged; the picture, which has been read, is not
        return picture


def to_eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits a pixel as one of 8: Pillow would clip it, to white.

    Raises ValueError for one of floats.
    """
    if picture.mode == "F":
        raise ValueError("its pixels are floats, and nothing says which of them is white")
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))


def remove_transparency(picture: Image.Image) -> Image.Image:
    """Without its transparency: the colours that lie under it are not meant to be seen."""
    if picture.getbands()[-1] != "A" and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
