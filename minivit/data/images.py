"""Read image files and files of class names."""

import io
import logging
import re
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..arrays import Array
from ..files import FileError, is_system_error
from .preprocessing import Preprocessing, Size, get_preprocessing, preprocess

# Pillow's log messages about damaged files appear only if the user configures logging.
logging.getLogger("PIL").addHandler(logging.NullHandler())
MODES = {1: "L", 3: "RGB"}  # of Pillow, by the number of channels
# Raster formats that Pillow decodes itself. For EPS, it would start another program.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP",
)  # fmt: skip
MAX_PIXELS = 50_000_000  # per file; a file of 1 MB can decode to 1 GB
MAX_BYTES = 500_000_000  # per file; 50 megapixels of 16-bit RGBA take 400 MB
MAX_SIDE = 65_535  # pixels; the largest side that JPEG allows
STRIP = 256  # rows composited onto white at a time, to save memory
COLOURFUL = 10  # of 255: mean difference between the largest and the smallest of red, green, blue
MAX_LABEL_BYTES = 10_000_000  # in a file with class names


def read_image(
    path: str | Path,
    size: Size,
    channels: int,
    preprocessing: str | Preprocessing = "minivit",
    max_pixels: int = MAX_PIXELS,
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
    max_pixels : int, optional
        Files with more pixels are rejected before they are decoded.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileError
        A ValueError. The file is not an image in one of the formats AVIF, BMP, GIF, JPEG, JPEG
        2000, PNG, PPM, TIFF and WebP, it is too large, or the preprocessing does not apply to it.

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
        if Path(path).stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        # Decode from memory: for a damaged length, Pillow tries to read gigabytes from a file.
        file = io.BytesIO(Path(path).read_bytes())
        with Image.open(file, formats=available_formats()) as picture:
            check_size(picture, max_pixels)
            picture.load()
            with suppress(Exception):  # damaged EXIF metadata; the parser raises many exceptions
                ImageOps.exif_transpose(picture, in_place=True)
            picture = remove_transparency(convert_to_8_bit(picture)).convert(MODES[channels])
    except UnidentifiedImageError:
        raise FileError(f"{path} cannot be read as an image: unknown file format") from None
    except Exception as error:  # the decoders raise exceptions of many types
        if is_system_error(error):
            raise
        reason = getattr(error, "strerror", None) or error  # strerror does not repeat the path
        raise FileError(f"{path} cannot be read as an image: {reason}") from None
    try:
        return preprocess(picture, size, preprocessing)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None


def available_formats() -> list[str]:
    """Return the formats that this version of Pillow supports."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def check_size(picture: Image.Image, max_pixels: int) -> None:
    """Raise ValueError if a picture that has not been decoded yet is too large."""
    width, height = picture.size
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise ValueError(
            f"it has {height:,} x {width:,} pixels. The limits are {max_pixels:,} pixels in "
            f"total (--max-pixels) and {MAX_SIDE:,} per side"
        )


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

    Raises FileNotFoundError, or FileError if the file is not text with one line per class.
    """
    check_file(path)
    if Path(path).stat().st_size > MAX_LABEL_BYTES:
        raise FileError(f"{path} has more than {MAX_LABEL_BYTES:,} bytes, too many for class names")
    try:
        text = Path(path).read_text(encoding="utf-8-sig").rstrip()
    except UnicodeDecodeError:
        raise FileError(f"{path} is not a text file with one class name per line") from None
    except OSError as error:  # errors during reading lack the file name
        raise OSError(error.errno, error.strerror, str(path)) from None
    names = [line.strip() for line in text.split("\n")] if text else []
    if len(names) != classes:
        lines = "1 line" if len(names) == 1 else f"{len(names)} lines"
        raise FileError(f"{path} has {lines}, but the model has {classes} classes")
    return names


def describe_mismatch(path: str | Path, size: Size, channels: int) -> str:
    """Return "is a colour image of 256 x 256 pixels" if a readable file is unusual input, else "".

    That is a colour image for a grey model, or less than a quarter of the model's rows and columns.
    """
    with Image.open(path, formats=available_formats()) as picture:
        width, height = picture.size
        reduced = picture.convert("RGB").resize((32, 32), Image.Resampling.BOX)
    colours = np.asarray(reduced, dtype=np.int64)  # (32, 32, 3)
    is_colour = np.ptp(colours, axis=-1).mean() > COLOURFUL
    if (channels == 1 and is_colour) or (4 * height < size[0] and 4 * width < size[1]):
        kind = "colour" if is_colour else "grey"
        return f"is a {kind} image of {height} x {width} pixels"
    return ""


def sample_photograph() -> Path:
    """Return the path of a photograph bundled with matplotlib (Grace Hopper, 1985)."""
    from matplotlib import cbook  # not at the top, because importing matplotlib is slow

    return Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))


def convert_to_8_bit(picture: Image.Image) -> Image.Image:
    """Scale a 16-bit grey picture to 8 bits, because Pillow's conversion would clip it to white.

    Raises ValueError for more bits and for floats, because their white level is unknown.
    """
    if picture.mode == "F" or (picture.format == "TIFF" and picture.mode == "I"):
        kind = "floats" if picture.mode == "F" else "32-bit or signed integers"
        raise ValueError(f"its pixels are {kind}, so their white level is unknown")
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))


def remove_transparency(picture: Image.Image) -> Image.Image:
    """Draw a picture on white. The colours of transparent pixels are arbitrary."""
    if picture.getbands()[-1] != "A" and "transparency" not in picture.info:
        return picture
    width, height = picture.size
    drawn = Image.new("RGB", (width, height))
    for top in range(0, height, STRIP):
        strip = picture.crop((0, top, width, min(top + STRIP, height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        drawn.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return drawn
