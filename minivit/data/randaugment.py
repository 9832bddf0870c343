"""RandAugment: a few operations drawn at random for each image, all of the same magnitude.

The fourteen operations are those of Cubuk et al., "RandAugment" (2020), section 3; their strengths
follow the table of transformations in Cubuk et al., "AutoAugment" (2019): at magnitude 10,

    identity, autocontrast, equalise     have no strength
    rotate                               30 degrees
    shear x, shear y                     0.3 pixels for each pixel away from the middle
    translate x, translate y             10 pixels in 32, whole pixels (as they do on CIFAR)
    posterise                            4 of the 8 bits are left
    solarise                             all is inverted; at 5, the brighter half
    brightness, contrast, colour,        1.9 times as much, or 0.1 times
    sharpness

and in proportion below. Directions, and more or less, are drawn with chance 1/2. What comes in
from outside of an image is mid-grey. The geometric operations keep the middle where it is and
interpolate linearly; tones are read from 256 levels where an operation is about levels, and else
left unrounded. Each operation takes images (B, H, W, C) in [-1, 1] and m (B, 1, 1, 1) in [-1, 1],
the magnitude over 10 with its sign, and gives new images, or the same ones.
"""

import numpy as np

from ..arrays import Array

DEGREES, SHEAR, TRANSLATION, BITS, FACTOR = 30, 0.3, 10 / 32, 4, 0.9  # at magnitude 10
LEVELS = 256
LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue look (ITU-R BT.601)


def apply_randaugment(
    images: Array, count: int, magnitude: float, generator: np.random.Generator
) -> Array:
    """Apply `count_parameters` operations to each image one after the other, drawn with replacement.

    images (B, H, W, C) in [-1, 1]  ->  the same shape, type and range.
    Raises ValueError for a magnitude outside [0, 10].
    """
    if not 0 <= magnitude <= 10:
        raise ValueError(f"magnitude goes from 0 to 10, not {magnitude}")
    B = len(images)
    draws = generator.integers(len(OPERATIONS), size=(count, B))
    signs = generator.choice((-1, 1), size=(count, B, 1, 1, 1))
    strengths = (signs * (magnitude / 10)).astype(images.dtype)
    images = images.copy()
    for drawn, m in zip(draws, strengths, strict=True):
        for number, operation in enumerate(OPERATIONS):
            chosen = np.flatnonzero(drawn == number)
            if chosen.size:
                images[chosen] = operation(images[chosen], m[chosen])
    return images


def identity(images: Array, m: Array) -> Array:
    """The images themselves."""
    return images


# --- where things are -------------------------------------------------------------------------


def rotate(images: Array, m: Array) -> Array:
    """Turn about the middle, counter-clockwise for m > 0."""
    down, right = centred_coordinates(images)
    cos, sin = np.cos(np.radians(DEGREES * m)), np.sin(np.radians(DEGREES * m))
    return sample_pixels(images, cos * down + sin * right, cos * right - sin * down)


def shear_x(images: Array, m: Array) -> Array:
    """Push the upper rows to the right and the lower ones to the left, for m > 0."""
    down, right = centred_coordinates(images)
    return sample_pixels(images, down, right + SHEAR * m * down)


def shear_y(images: Array, m: Array) -> Array:
    """Push the left columns down and the right ones up, for m > 0."""
    down, right = centred_coordinates(images)
    return sample_pixels(images, down + SHEAR * m * right, right)


def translate_x(images: Array, m: Array) -> Array:
    """Move by whole pixels, to the left for m > 0."""
    down, right = centred_coordinates(images)
    return sample_pixels(images, down, right + np.rint(TRANSLATION * m * images.shape[2]))


def translate_y(images: Array, m: Array) -> Array:
    """Move by whole pixels, up for m > 0."""
    down, right = centred_coordinates(images)
    return sample_pixels(images, down + np.rint(TRANSLATION * m * images.shape[1]), right)


def centred_coordinates(images: Array) -> tuple[Array, Array]:
    """How far each pixel lies below the middle (H, 1, 1), and how far to its right (W, 1)."""
    _, H, W, _ = images.shape
    down = np.arange(H, dtype=images.dtype) - (H - 1) / 2
    right = np.arange(W, dtype=images.dtype) - (W - 1) / 2
    return down[:, None, None], right[:, None]


def sample_pixels(images: Array, down: Array, right: Array) -> Array:
    """New images, whose pixels are read from the old ones so far below and right of the middle.

    down and right broadcast to (B, H, W, 1). Between the middles of pixels the values change
    linearly; the outer half of a border pixel has its value, and what lies beyond is grey.
    """
    _, H, W, _ = images.shape
    y, x = down + (H - 1) / 2, right + (W - 1) / 2
    inside = (y >= -0.5) & (y < H - 0.5) & (x >= -0.5) & (x < W - 0.5)
    y, x = y.clip(0, H - 1), x.clip(0, W - 1)
    top, left = y.astype(int), x.astype(int)
    bottom, end = np.minimum(top + 1, H - 1), np.minimum(left + 1, W - 1)
    across, along = x - np.floor(x), y - np.floor(y)
    above = interpolate(gather_pixels(images, top, left), gather_pixels(images, top, end), across)
    below = interpolate(
        gather_pixels(images, bottom, left), gather_pixels(images, bottom, end), across
    )
    return interpolate(above, below, along) * inside


def gather_pixels(images: Array, rows: Array, columns: Array) -> Array:
    """The pixels in these rows and columns, which broadcast to (B, H, W, 1).

    Numbering all pixels of the batch in a row and taking by that number is five times as fast as
    an index for each axis.
    """
    B, H, W, C = images.shape
    one = np.arange(B)[:, None, None, None]
    number = (one * H + rows) * W + columns  # (B, H, W, 1)
    return images.reshape(-1, C).take(number[..., 0], axis=0)


def interpolate(a: Array, b: Array, share: Array) -> Array:
    """a at share 0, b at 1, a straight line through both, also beyond them."""
    return a + share * (b - a)


# --- which tones they have --------------------------------------------------------------------


def autocontrast(images: Array, m: Array) -> Array:
    """Stretch each channel so that its darkest value is -1 and its brightest 1."""
    # one axis after the other: over both at once, NumPy goes pixel by pixel, ten times as slow
    low = images.min(1, keepdims=True).min(2, keepdims=True)  # (B, 1, 1, C)
    span = images.max(1, keepdims=True).max(2, keepdims=True) - low
    flat = span < 1 / (LEVELS - 1)  # half a level or less: nothing but rounding to be seen
    stretched = (images - low) * (2 / np.where(flat, 2, span)) - 1
    return np.where(flat, images, stretched)


def equalise(images: Array, m: Array) -> Array:
    """Give each channel about as many pixels at every level, in the order of their brightness.

    A pixel goes to the level that is the share of darker pixels in its channel, in whole numbers
    as in Pillow; a channel of one level stays as it is.
    """
    B, _, _, C = images.shape
    level = to_levels(images)  # (B, H, W, C)
    table = np.arange(B * C).reshape(B, 1, 1, C) * LEVELS + level
    pixels = np.bincount(table.ravel(), minlength=B * C * LEVELS).reshape(B, C, LEVELS)
    darker = pixels.cumsum(-1) - pixels  # (B, C, LEVELS)
    step = np.where(pixels, darker, 0).max(-1, keepdims=True) // (LEVELS - 1)
    equal = ((darker + step // 2) // np.maximum(step, 1)).clip(0, LEVELS - 1)
    equal = np.where(step > 0, equal, np.arange(LEVELS))
    return from_levels(equal.ravel()[table], images)


def posterise(images: Array, m: Array) -> Array:
    """Set the lowest bits of each level to zero: 4 of 8 at the most."""
    dropped = np.rint(BITS * abs(m)).astype(int)
    return from_levels(to_levels(images) >> dropped << dropped, images)


def solarise(images: Array, m: Array) -> Array:
    """Invert what is brighter than a threshold, which falls from above white to below black."""
    threshold = from_levels(LEVELS * (1 - abs(m)) - 0.5, images)  # between two levels
    return np.where(images >= threshold, -images, images)


def brightness(images: Array, m: Array) -> Array:
    """Away from black, or towards it."""
    return enhance(images, np.full_like(images[:, :1, :1], -1), m)


def contrast(images: Array, m: Array) -> Array:
    """Away from the mean grey of the image, or towards it."""
    return enhance(images, luminance(images).mean((1, 2), keepdims=True), m)


def colour(images: Array, m: Array) -> Array:
    """Away from the image without its colours, or towards it; grey images stay as they are."""
    return enhance(images, luminance(images), m)


def sharpness(images: Array, m: Array) -> Array:
    """Away from the image smoothed over 3x3 pixels, or towards it; its border stays as it is."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]  # (B, H - 2, W, C)
    square = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smooth = images.copy()
    smooth[:, 1:-1, 1:-1] = (square + 4 * images[:, 1:-1, 1:-1]) / 13
    return enhance(images, smooth, m)


def enhance(images: Array, poor: Array, m: Array) -> Array:
    """Images moved away from their poor version (m > 0) or towards it, what leaves [-1, 1] cut."""
    return interpolate(poor, images, 1 + FACTOR * m).clip(-1, 1)


def luminance(images: Array) -> Array:
    """How bright each pixel looks, (B, H, W, 1)."""
    if images.shape[-1] == 3:
        return (images @ np.asarray(LUMA, images.dtype))[..., None]
    return images.mean(-1, keepdims=True)


def to_levels(images: Array) -> Array:
    """Values in [-1, 1] as the nearest of 256 levels, integers."""
    return np.rint((images + 1) * ((LEVELS - 1) / 2)).astype(int)


def from_levels(level: Array, like: Array) -> Array:
    """Levels as values in [-1, 1] again, of the type of `like`."""
    return (level / ((LEVELS - 1) / 2) - 1).astype(like.dtype)


OPERATIONS = (
    identity,
    autocontrast,
    equalise,
    rotate,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    posterise,
    solarise,
    brightness,
    contrast,
    colour,
    sharpness,
)
