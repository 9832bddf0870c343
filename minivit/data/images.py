"""Image files in, arrays out."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..arrays import Array


def read_image(path: str | Path, size: tuple[int, int], channels: int) -> Array:
    """A picture from a file, resized to (height, width): (H, W, C), float32 in [-1, 1].

    channels 1 makes it grey, 3 coloured. Raises FileNotFoundError, or ValueError if the file is
    empty or no image that Pillow can read.
    """
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise ValueError(f"a picture has 1 or 3 channels, the model takes {channels}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with Image.open(path) as picture:
            picture = picture.convert(modes[channels])
            picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as reason:
        raise ValueError(f"{path} cannot be read as an image: {reason}") from None
    pixels = np.asarray(picture, dtype=np.float32).reshape(*size, channels)
    return pixels / np.float32(127.5) - 1
