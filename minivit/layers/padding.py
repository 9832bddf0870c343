"""SAME padding, and the windows that a convolution or a pooling looks through.

Along an axis of n entries a window of `side` entries moves in steps of `stride`, to n / stride
places, rounded up. What the last one lacks is padded: half of it before the image and half
behind, *the odd one behind*. At 224 pixels a 7 x 7 window of stride 2 has 2 before and 3 behind;
with 3 on both sides, as others pad, every window would look one pixel further up and left.
(TensorFlow's and JAX's rule, by which the authors' ResNet was trained)
"""

from collections.abc import Iterator

from ..arrays import Array, array_module


def same_padding(n: int, side: int, stride: int) -> tuple[int, int]:
    """How much is padded before and behind an axis of n entries."""
    windows = -(-n // stride)
    missing = max((windows - 1) * stride + side - n, 0)
    return missing // 2, missing - missing // 2


def pad_same(x: Array, sides: tuple[int, int], stride: int, value: float = 0.0) -> Array:
    """x (B, H, W, C), copied into a frame of `value`, for windows of these two sides."""
    B, H, W, C = x.shape
    top, bottom = same_padding(H, sides[0], stride)
    left, right = same_padding(W, sides[1], stride)
    shape = B, top + H + bottom, left + W + right, C
    padded = array_module(x).full(shape, value, dtype=x.dtype)
    padded[:, top : top + H, left : left + W] = x
    return padded


def crop_same(padded: Array, H: int, W: int, sides: tuple[int, int], stride: int) -> Array:
    """The view (B, H, W, C) of what `pad_same` put into the frame."""
    top, _ = same_padding(H, sides[0], stride)
    left, _ = same_padding(W, sides[1], stride)
    return padded[:, top : top + H, left : left + W]


def window_views(padded: Array, sides: tuple[int, int], stride: int) -> Iterator[Array]:
    """For each place in a window, row by row, what all windows see there: a view (B, h, w, C)."""
    Hp, Wp = padded.shape[1:3]
    kh, kw = sides
    for i in range(kh):
        for j in range(kw):
            yield padded[:, i : Hp - kh + i + 1 : stride, j : Wp - kw + j + 1 : stride]
