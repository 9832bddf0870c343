"""Image files in, arrays out."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from ..arrays import Array


def read_image(path: str | Path, size: tuple[int, int], channels: int) -> Array:
    """A picture from a file, resized to (height, width): (H, W, C), float32 in [-1, 1].

    channels 1 makes it grey, 3 coloured; what is transparent shows white paper. Raises
    FileNotFoundError, or ValueError if the file is empty or no image that Pillow can read.
    """
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise ValueError(f"{path}: a picture has 1 or 3 channels, the model takes {channels}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("ignore")  # about damaged files: they are read, or refused below
            picture = on_white(eight_bits(picture)).convert(modes[channels])
            picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
    except Exception as reason:  # each of Pillow's readers has its own kinds
        raise ValueError(f"{path} cannot be read as an image: {reason}") from None
    pixels = np.asarray(picture, dtype=np.float32).reshape(*size, channels)
    return pixels / np.float32(127.5) - 1


def eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits a pixel as one of 8: Pillow would clip it, to white."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))


def on_white(picture: Image.Image) -> Image.Image:
    """Without its transparency: the colours that lie under it are not meant to be seen."""
    if picture.getbands()[-1] != "A" and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
