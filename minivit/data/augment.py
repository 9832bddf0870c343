"""Changes to a training image that leave its class alone."""

import numpy as np

from ..arrays import Array


def shift(images: Array, pixels: int, generator: np.random.Generator) -> Array:
    """Move each image by up to so many pixels in each direction, at random.

    images (B, H, W, C)  ->  the same shape; what comes in at the border has the value -1.
    """
    B, H, W, _ = images.shape
    border = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    padded = np.pad(images, border, constant_values=-1)
    down, right = generator.integers(0, 2 * pixels + 1, size=(2, B, 1, 1))
    rows = down + np.arange(H)[:, None]                       # (B, H, 1)
    columns = right + np.arange(W)                            # (B, 1, W)
    return padded[np.arange(B)[:, None, None], rows, columns]
