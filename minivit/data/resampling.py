"""Resample grids (images and position embeddings) to another size, with one matrix per axis.

All methods are linear maps. They differ in the positions of new points on the old axis and in the
kernel:

    aligned      linear; corners are mapped to corners, as in the authors' position embeddings
    bilinear     linear; pixels are areas, and a point beyond the border has the border's value
    bicubic      cubic over four points (a = -0.75), otherwise as bilinear
    antialiased  cubic (a = -0.5); the kernel widens when shrinking, so that no point is skipped
    area         the mean of the area that a new pixel covers
"""

import numpy as np

from ..arrays import Array, array_module

RESAMPLING_METHODS = ("aligned", "bilinear", "bicubic", "antialiased", "area")


def resampling_matrix(old: int, new: int, method: str) -> Array:
    """Return the weights (new, old), float64, that resample `old` points to `new` points.

    Every row sums to one. Raises ValueError for an unknown method or fewer than one point.
    """
    if method not in RESAMPLING_METHODS:
        choices = ", ".join(RESAMPLING_METHODS)
        raise ValueError(f"unknown resampling method {method!r}: choose {choices}")
    if old < 1 or new < 1:
        raise ValueError(f"cannot resample {old} points to {new}: both must be at least 1")
    scale = old / new  # old pixels per new pixel
    points = np.arange(old, dtype=np.float64)  # (old,)
    starts = scale * np.arange(new)  # (new,), the first edge of each new pixel
    if method == "aligned":
        centres = np.arange(new) * ((old - 1) / max(new - 1, 1))
        return triangle_kernel(points - centres[:, None])
    if method == "area":
        ends = np.minimum(starts[:, None] + scale, points + 1)
        overlap = (ends - np.maximum(starts[:, None], points)).clip(0)
        return normalise_rows(overlap)
    centres = starts + scale / 2 - 0.5  # (new,), on the axis of `points`
    if method == "bicubic":
        padded = np.arange(-2, old + 2)  # two more points beyond each border
        weights = cubic_kernel(padded - centres[:, None], -0.75)  # (new, old + 4)
        return weights @ (padded.clip(0, old - 1)[:, None] == points)
    if method == "antialiased":
        return normalise_rows(cubic_kernel((points - centres[:, None]) / max(scale, 1), -0.5))
    return normalise_rows(triangle_kernel(points - centres[:, None]))


def triangle_kernel(x: Array) -> Array:
    """Return the weight of linear interpolation, which decreases from 1 at 0 to 0 at -1 and 1."""
    return (1 - abs(x)).clip(0)


def cubic_kernel(x: Array, a: float) -> Array:
    """Return the weight of cubic convolution (Keys, 1981), which has the slope a at 1."""
    x = abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def normalise_rows(weights: Array) -> Array:
    """Divide each row by its sum, which is below one where the border truncates the kernel."""
    return weights / weights.sum(-1, keepdims=True)


def resample(images: Array, size: tuple[int, int], method: str) -> Array:
    """Resample floats (..., H, W, C)  ->  (..., h, w, C) of the same dtype, with size = (h, w).

    Raises ValueError as `resampling_matrix` does.
    """
    xp = array_module(images)
    *batch, H, W, C = images.shape
    h, w = size
    rows = xp.asarray(resampling_matrix(H, h, method), dtype=images.dtype)  # (h, H)
    columns = xp.asarray(resampling_matrix(W, w, method), dtype=images.dtype)  # (w, W)
    resampled = xp.matmul(rows, images.reshape(*batch, H, W * C))  # (..., h, W C)
    return xp.matmul(columns, resampled.reshape(*batch, h, W, C))  # (..., h, w, C)
