"""The pooling at the root of the hybrid's ResNet."""

import math

from ..arrays import Array, Pullback, array_module
from .padding import crop_same, pad_same, window_views


def max_pool(x: Array, side: int = 3, stride: int = 2) -> tuple[Array, Pullback]:
    """The largest number that each window sees, channel by channel.

    x (B, H, W, C)  ->  (B, h, w, C), with H / stride and W / stride rounded up. SAME padded
    (`padding.py`), with -inf, which is never the largest. Among equal numbers the first one, row
    by row, has the gradient.
    """
    B, H, W, C = x.shape
    sides = side, side
    padded = pad_same(x, sides, stride, -math.inf)
    y, place = first_largest(list(window_views(padded, sides, stride)))

    def pullback(dy: Array) -> Array:
        xp = array_module(dy)
        dpadded = pad_same(xp.zeros((B, H, W, C), dtype=dy.dtype), sides, stride)
        for n, dseen in enumerate(window_views(dpadded, sides, stride)):
            dseen += dy * (place == n)
        return crop_same(dpadded, H, W, sides, stride)

    return y, pullback


def first_largest(arrays: list[Array]) -> tuple[Array, Array]:
    """Entry by entry the largest of several arrays, and the number of the first that has it."""
    xp = array_module(arrays[0])
    largest, number = arrays[0], xp.zeros(arrays[0].shape, dtype="int8")
    for n, array in enumerate(arrays):
        larger = array.real > largest.real
        largest, number = xp.where(larger, array, largest), xp.where(larger, n, number)
    return largest, number
