"""Max pooling, used in the root of the hybrid's ResNet."""

import math

from ..arrays import Array, Pullback, array_module
from .padding import crop_same, pad_same, window_views


def max_pool(x: Array, side: int = 3, stride: int = 2) -> tuple[Array, Pullback]:
    """Maximum of each window, channel by channel, with SAME padding by -inf.

    x (B, H, W, C)  ->  y (B, h, w, C), h = ⌈H / stride⌉, w = ⌈W / stride⌉
    If several entries of a window are equal to the maximum, the first in row-major order receives
    the gradient.
    """
    B, H, W, C = x.shape
    sides = side, side
    padded = pad_same(x, sides, stride, -math.inf)
    y, index = first_maximum(list(window_views(padded, sides, stride)))

    def pullback(dy: Array) -> Array:
        xp = array_module(dy)
        dpadded = pad_same(xp.zeros((B, H, W, C), dtype=dy.dtype), sides, stride)
        for n, dview in enumerate(window_views(dpadded, sides, stride)):
            dview += dy * (index == n)
        return crop_same(dpadded, H, W, sides, stride)

    return y, pullback


def first_maximum(arrays: list[Array]) -> tuple[Array, Array]:
    """Elementwise maximum of several arrays, and the index of the first array that attains it."""
    xp = array_module(arrays[0])
    largest, index = arrays[0], xp.zeros(arrays[0].shape, dtype="int8")
    for n, array in enumerate(arrays):
        larger = array.real > largest.real
        largest, index = xp.where(larger, array, largest), xp.where(larger, n, index)
    return largest, index
