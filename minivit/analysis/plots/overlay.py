"""An attention map laid over a photograph."""

import numpy as np
from matplotlib import colormaps

from ...arrays import Array
from ...data.resampling import resample

QUANTILE = 0.97  # of a map is drawn brightest, because one outlier would leave the rest dark
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue
OPACITY = (0.3, 0.8)  # of the map over the photograph, at the lowest and the highest values
CAPTION = "each map from its minimum (dark) to its 97th percentile (bright)"


def overlay(image: Array, values: Array) -> Array:
    """Lay a map, interpolated between the centres of the patches, over a photograph in grey.

    image (H, W, 3) in [-1, 1], map (gh, gw)  ->  (H, W, 3) in [-1, 1]
    """
    shifted = values.astype(np.float64) - values.min()
    top = np.quantile(shifted, QUANTILE) or shifted.max() or 1
    level = (shifted / top).clip(0, 1)[..., None]  # (gh, gw, 1)
    level = resample(level, image.shape[:2], "bilinear")  # (H, W, 1)
    colour = 2 * colormaps["inferno"](level[..., 0])[..., :3] - 1
    grey = image.astype(np.float64) @ np.array(LUMINANCE)  # (H, W)
    opacity = OPACITY[0] + (OPACITY[1] - OPACITY[0]) * level
    return grey[..., None] * (1 - opacity) + colour * opacity
