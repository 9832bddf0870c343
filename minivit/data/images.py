"""Read image files and files of class names."""

import errno
import re
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..arrays import Array
from .preprocessing import Preprocessing, Size, get_preprocessing, preprocess

MODES = {1: "L", 3: "RGB"}  # of Pillow, by the number of channels
SYSTEM_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # not caused by the file


def read_image(
    path: str | Path, size: Size, channels: int, preprocessing: str | Preprocessing = "minivit"
) -> Array:
    """Read an image file as the input of a model, a float32 array (H, W, channels).

    The EXIF orientation is applied, transparent pixels become white, and only the first frame of
    an animation is read.

    Parameters
    ----------
    path : str or Path
    size : (int, int)
        Height and width of the result.
    channels : int
        1 converts the image to grey, 3 to RGB.
    preprocessing : str or Preprocessing, optional
        Name of a family (see `get_preprocessing`), or the rules themselves. By default, the image
        is resized without keeping its aspect ratio, and its values are in [-1, 1].

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If Pillow cannot read the file as an image, or if the preprocessing does not apply to it.

    Examples
    --------
    >>> minivit.data.read_image(minivit.data.sample_photograph(), (224, 224), 3).shape
    (224, 224, 3)
    """
    if channels not in MODES:
        raise ValueError(f"{path}: images have 1 or 3 channels, but the model takes {channels}")
    check_file(path)
    if isinstance(preprocessing, str):
        preprocessing = get_preprocessing(preprocessing, size)
    silence_pillow_warnings()
    try:
        with Image.open(path) as picture:
            picture.load()
            with suppress(Exception):  # damaged EXIF metadata; the parser raises many exceptions
                picture = ImageOps.exif_transpose(picture)
            picture = remove_transparency(convert_to_8_bit(picture)).convert(MODES[channels])
    except UnidentifiedImageError:
        raise ValueError(f"{path} cannot be read as an image: unknown file format") from None
    except Exception as error:  # the decoders raise exceptions of many types
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in SYSTEM_ERRORS:
            raise
        reason = getattr(error, "strerror", None) or error  # strerror does not repeat the path
        raise ValueError(f"{path} cannot be read as an image: {reason}") from None
    try:
        return preprocess(picture, size, preprocessing)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def silence_pillow_warnings() -> None:
    """Ignore Pillow's warnings about damaged and large files: such files are read or raise errors.

    The filter is permanent, because a thread that removed it could disturb another one.
    """
    ignore = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if warnings.filters[:1] != [ignore]:  # every change resets the record of shown warnings
        warnings.filterwarnings("ignore", module=r"PIL\.")


def check_file(path: str | Path) -> None:
    """Raise FileNotFoundError unless the path is a file."""
    if Path(path).is_dir():
        raise FileNotFoundError(f"{path} is a folder, not a file")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")


def read_labels(path: str | Path, classes: int) -> list[str]:
    """Read the names of a model's classes, in order.

    Raises FileNotFoundError, or ValueError if the file is not text with one line per class.
    """
    check_file(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig").rstrip()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file with one class name per line") from None
    names = [line.strip() for line in text.split("\n")] if text else []
    if len(names) != classes:
        lines = "1 line" if len(names) == 1 else f"{len(names)} lines"
        raise ValueError(f"{path} has {lines}, but the model has {classes} classes")
    return names


def sample_photograph() -> Path:
    """Return the path of a photograph bundled with matplotlib (Grace Hopper, 1985)."""
    from matplotlib import cbook  # not at the top, because importing matplotlib is slow

    return Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))


def convert_to_8_bit(picture: Image.Image) -> Image.Image:
    """Scale a 16-bit grey picture to 8 bits, because Pillow's conversion would clip it to white."""
    if picture.mode == "F":
        raise ValueError("its pixels are floats, and the value of white is unknown")
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))


def remove_transparency(picture: Image.Image) -> Image.Image:
    """Draw a picture on white. The colours of transparent pixels are arbitrary."""
    if picture.getbands()[-1] != "A" and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
