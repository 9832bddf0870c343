"""Grids of another size: images and position tables, resampled by a matrix for each axis.

Every method is linear and treats rows and columns alike but apart, so each is two small matrices.
They differ in where a new point lies on the old axis, and in how far it looks around there:

    aligned      linear; the two corners stay corners. The authors' way with positions
    bilinear     linear; pixels are little areas, and a point beyond the border reads the border
    bicubic      through four points (a = -0.75), centred likewise, the border repeated
    antialiased  cubic (a = -0.5), as wide as a new pixel, so that it skips nothing when shrinking
    area         the mean of what a new pixel covers
"""

import numpy as np

from ..arrays import Array, array_module

RESAMPLING_METHODS = ("aligned", "bilinear", "bicubic", "antialiased", "area")


def resampling_matrix(old: int, new: int, method: str) -> Array:
    """The weights with which `new` points read `old` ones, (new, old) float64, rows sum to one.

    Raises ValueError for an unknown method, or a side below 1.
    """
    if method not in RESAMPLING_METHODS:
        raise ValueError(
            f"unknown method {method!r} of resampling: choose {', '.join(RESAMPLING_METHODS)}"
        )
    if old < 1 or new < 1:
        raise ValueError(f"{old} points cannot become {new}: both numbers go from 1 up")
    scale = old / new  # old pixels in a new one
    places = np.arange(old, dtype=np.float64)  # (old,)
    starts = scale * np.arange(new)  # (new,) of the new pixels
    if method == "aligned":
        centres = np.arange(new) * ((old - 1) / max(new - 1, 1))
        return triangle_kernel(places - centres[:, None])
    if method == "area":
        ends = np.minimum(starts[:, None] + scale, places + 1)
        shared = (ends - np.maximum(starts[:, None], places)).clip(0)
        return normalise_rows(shared)
    centres = starts + scale / 2 - 0.5  # (new,) among the places
    if method == "bicubic":
        around = np.arange(-2, old + 2)  # two more places at either end
        weights = cubic_kernel(around - centres[:, None], -0.75)  # (new, old + 4)
        return weights @ (around.clip(0, old - 1)[:, None] == places)
    if method == "antialiased":
        return normalise_rows(cubic_kernel((places - centres[:, None]) / max(scale, 1), -0.5))
    return normalise_rows(triangle_kernel(places - centres[:, None]))


def triangle_kernel(x: Array) -> Array:
    """1 at zero, falling in a straight line to 0 at -1 and 1: linear interpolation's weight."""
    return (1 - abs(x)).clip(0)


def cubic_kernel(x: Array, a: float) -> Array:
    """1 at zero, 0 at the other whole numbers and beyond 2; `a` is its slope at 1. (Keys, 1981)"""
    x = abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def normalise_rows(weights: Array) -> Array:
    """Each row divided by its sum: what lies beyond the border is not there to be read."""
    return weights / weights.sum(-1, keepdims=True)


def resample(images: Array, size: tuple[int, int], method: str) -> Array:
    """images (..., H, W, C) of floats  ->  (..., h, w, C) of the same dtype, size being (h, w).

    Raises ValueError for an unknown method, or a side below 1.
    """
    xp = array_module(images)
    *rest, H, W, C = images.shape
    h, w = size
    rows = xp.asarray(resampling_matrix(H, h, method), dtype=images.dtype)  # (h, H)
    columns = xp.asarray(resampling_matrix(W, w, method), dtype=images.dtype)  # (w, W)
    taller = xp.matmul(rows, images.reshape(*rest, H, W * C))  # (..., h, W C)
    return xp.matmul(columns, taller.reshape(*rest, h, W, C))  # (..., h, w, C)
