"""RandAugment: random operations on each image, with a common magnitude.

The fourteen operations are those of Cubuk et al., "RandAugment" (2020), section 3. Their strengths
are proportional to the magnitude, have a random sign, and follow Cubuk et al., "AutoAugment"
(2019). Geometric operations keep the centre fixed, interpolate linearly and fill uncovered pixels
with mid-grey. Each operation takes images (B, H, W, C) in [-1, 1] and m (B, 1, 1, 1), the signed
magnitude divided by 10, and returns images (B, H, W, C).
"""

from collections.abc import Callable

import numpy as np

from ..arrays import Array

# At magnitude 10: degrees, pixels per pixel of distance from the centre, fraction of the side,
# number of bits set to zero, and change of the factor of an enhancement (to 1.9 or 0.1).
DEGREES, SHEAR, TRANSLATION, BITS, FACTOR = 30, 0.3, 10 / 32, 4, 0.9
LEVELS = 256
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)


def apply_randaugment(
    images: Array, count: int, magnitude: float, generator: np.random.Generator
) -> Array:
    """Apply `count` random operations, drawn with replacement, to each image (B, H, W, C).

    Raises ValueError for a magnitude outside [0, 10].
    """
    if not 0 <= magnitude <= 10:
        raise ValueError(f"randaugment_magnitude must be from 0 to 10, not {magnitude}")
    B = len(images)
    choices = generator.integers(len(OPERATIONS), size=(count, B))
    signs = generator.choice((-1, 1), size=(count, B, 1, 1, 1))
    strengths = (signs * (magnitude / 10)).astype(images.dtype)
    images = images.copy()
    for choice, m in zip(choices, strengths, strict=True):
        for number, operation in enumerate(OPERATIONS):
            selected = np.flatnonzero(choice == number)
            if selected.size:
                images[selected] = operation(images[selected], m[selected])
    return images


def identity(images: Array, m: Array) -> Array:
    """Return the images."""
    return images


def rotate(images: Array, m: Array) -> Array:
    """Rotate about the centre, counter-clockwise for m > 0."""
    cos, sin = np.cos(np.radians(DEGREES * m)), np.sin(np.radians(DEGREES * m))
    return warp(images, lambda y, x: (cos * y + sin * x, cos * x - sin * y))


def shear_x(images: Array, m: Array) -> Array:
    """Shear along the rows: the upper half moves right for m > 0."""
    return warp(images, lambda y, x: (y, x + SHEAR * m * y))


def shear_y(images: Array, m: Array) -> Array:
    """Shear along the columns: the left half moves down for m > 0."""
    return warp(images, lambda y, x: (y + SHEAR * m * x, x))


def translate_x(images: Array, m: Array) -> Array:
    """Translate by whole pixels, to the left for m > 0."""
    return warp(images, lambda y, x: (y, x + np.rint(TRANSLATION * m * images.shape[2])))


def translate_y(images: Array, m: Array) -> Array:
    """Translate by whole pixels, up for m > 0."""
    return warp(images, lambda y, x: (y + np.rint(TRANSLATION * m * images.shape[1]), x))


def warp(images: Array, source: Callable[[Array, Array], tuple[Array, Array]]) -> Array:
    """Sample each pixel (y, x) at the position source(y, x), both relative to the centre.

    Interpolation is bilinear. Positions more than half a pixel outside the image are mid-grey.
    """
    _, H, W, _ = images.shape
    y = (np.arange(H, dtype=images.dtype) - (H - 1) / 2)[:, None, None]
    x = (np.arange(W, dtype=images.dtype) - (W - 1) / 2)[:, None]
    y, x = source(y, x)
    y, x = y + (H - 1) / 2, x + (W - 1) / 2
    inside = (y >= -0.5) & (y < H - 0.5) & (x >= -0.5) & (x < W - 0.5)
    y, x = y.clip(0, H - 1), x.clip(0, W - 1)
    top, left = y.astype(int), x.astype(int)
    bottom, right = np.minimum(top + 1, H - 1), np.minimum(left + 1, W - 1)
    x_weight, y_weight = x - np.floor(x), y - np.floor(y)
    above, below = (
        lerp(gather_pixels(images, row, left), gather_pixels(images, row, right), x_weight)
        for row in (top, bottom)
    )
    return lerp(above, below, y_weight) * inside


def gather_pixels(images: Array, rows: Array, columns: Array) -> Array:
    """Return the pixels at rows and columns, which broadcast to (B, H, W, 1)."""
    B, H, W, C = images.shape
    # A single index into all pixels of the batch is five times as fast as one index per axis.
    index = (np.arange(B)[:, None, None, None] * H + rows) * W + columns  # (B, H, W, 1)
    return images.reshape(-1, C).take(index[..., 0], axis=0)


def lerp(a: Array, b: Array, weight: Array) -> Array:
    """Interpolate linearly from a (weight 0) to b (weight 1), or extrapolate."""
    return a + weight * (b - a)


def autocontrast(images: Array, m: Array) -> Array:
    """Stretch each channel so that its darkest value is -1 and its brightest 1."""
    # NumPy reduces over one axis ten times as fast as over two at once
    low = images.min(1, keepdims=True).min(2, keepdims=True)  # (B, 1, 1, C)
    span = images.max(1, keepdims=True).max(2, keepdims=True) - low
    flat = span < 1 / (LEVELS - 1)  # less than half a level: rounding errors
    stretched = (images - low) * (2 / np.where(flat, 2, span)) - 1
    return np.where(flat, images, stretched)


def equalise(images: Array, m: Array) -> Array:
    """Equalise the histogram of each channel, with Pillow's integer arithmetic."""
    B, _, _, C = images.shape
    index = np.arange(B * C).reshape(B, 1, 1, C) * LEVELS + to_levels(images)  # (B, H, W, C)
    counts = np.bincount(index.ravel(), minlength=B * C * LEVELS).reshape(B, C, LEVELS)
    darker = counts.cumsum(-1) - counts  # (B, C, LEVELS)
    step = np.where(counts, darker, 0).max(-1, keepdims=True) // (LEVELS - 1)
    table = ((darker + step // 2) // np.maximum(step, 1)).clip(0, LEVELS - 1)
    table = np.where(step > 0, table, np.arange(LEVELS))
    return from_levels(table.ravel()[index], images.dtype)


def posterise(images: Array, m: Array) -> Array:
    """Set the lowest bits of each level to zero."""
    bits = np.rint(BITS * abs(m)).astype(int)
    return from_levels(to_levels(images) >> bits << bits, images.dtype)


def solarise(images: Array, m: Array) -> Array:
    """Invert the values above a threshold, which decreases with the magnitude."""
    threshold = LEVELS * (1 - abs(m)) - 0.5  # between two levels
    return np.where(images >= from_levels(threshold, images.dtype), -images, images)


def brightness(images: Array, m: Array) -> Array:
    """Extrapolate from black (m > 0) or interpolate towards it."""
    return enhance(images, np.full_like(images[:, :1, :1], -1), m)


def contrast(images: Array, m: Array) -> Array:
    """Extrapolate from the mean grey of each image (m > 0) or interpolate towards it."""
    return enhance(images, luminance(images).mean((1, 2), keepdims=True), m)


def colour(images: Array, m: Array) -> Array:
    """Extrapolate from the greyscale image (m > 0) or interpolate towards it."""
    return enhance(images, luminance(images), m)


def sharpness(images: Array, m: Array) -> Array:
    """Extrapolate from a smoothed image (m > 0) or interpolate towards it, except at the border."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]  # (B, H - 2, W, C)
    square = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smooth = images.copy()
    smooth[:, 1:-1, 1:-1] = (square + 4 * images[:, 1:-1, 1:-1]) / 13
    return enhance(images, smooth, m)


def enhance(images: Array, degenerate: Array, m: Array) -> Array:
    """Extrapolate from the degenerate images (m > 0) or interpolate towards them, in [-1, 1]."""
    return lerp(degenerate, images, 1 + FACTOR * m).clip(-1, 1)


def luminance(images: Array) -> Array:
    """Return the luma of each pixel, (B, H, W, 1)."""
    if images.shape[-1] == 3:
        return (images @ np.asarray(LUMA, images.dtype))[..., None]
    return images.mean(-1, keepdims=True)


def to_levels(images: Array) -> Array:
    """Round values in [-1, 1] to integer levels from 0 to 255."""
    return np.rint((images + 1) * ((LEVELS - 1) / 2)).astype(int)


def from_levels(levels: Array, dtype: np.dtype) -> Array:
    """Convert levels to values in [-1, 1]."""
    return (levels / ((LEVELS - 1) / 2) - 1).astype(dtype)


OPERATIONS = (
    identity, autocontrast, equalise, rotate, shear_x, shear_y, translate_x, translate_y,
    posterise, solarise, brightness, contrast, colour, sharpness,
)  # fmt: skip
