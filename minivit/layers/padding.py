"""SAME padding, and the windows of a convolution or pooling layer.

Along an axis of n entries, a window has n / stride positions, rounded up. The padding is divided
equally between both ends; *an odd entry is added at the end*. For example, a 7 x 7 window of stride
2 needs 2 entries before and 3 after 224 pixels. PyTorch pads 3 on both sides, which shifts all
windows by one pixel. TensorFlow and JAX use SAME padding, and so does the authors' ResNet.
"""

from collections.abc import Iterator

from ..arrays import Array, array_module


def same_padding(n: int, side: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after an axis of n entries, for windows of `side` entries."""
    windows = -(-n // stride)
    missing = max((windows - 1) * stride + side - n, 0)
    return missing // 2, missing - missing // 2


def pad_same(x: Array, sides: tuple[int, int], stride: int, value: float = 0.0) -> Array:
    """Copy x (B, H, W, C) into an array padded with `value`."""
    B, H, W, C = x.shape
    top, bottom = same_padding(H, sides[0], stride)
    left, right = same_padding(W, sides[1], stride)
    shape = B, top + H + bottom, left + W + right, C
    padded = array_module(x).full(shape, value, dtype=x.dtype)
    padded[:, top : top + H, left : left + W] = x
    return padded


def crop_same(padded: Array, H: int, W: int, sides: tuple[int, int], stride: int) -> Array:
    """Return the view (B, H, W, C) without the padding of `pad_same`."""
    top, _ = same_padding(H, sides[0], stride)
    left, _ = same_padding(W, sides[1], stride)
    return padded[:, top : top + H, left : left + W]


def window_views(padded: Array, sides: tuple[int, int], stride: int) -> Iterator[Array]:
    """Yield the entries of all windows at one offset, for each offset in row-major order.

    padded (B, Hp, Wp, C)  ->  kh kw views (B, h, w, C)
    """
    Hp, Wp = padded.shape[1:3]
    kh, kw = sides
    for i in range(kh):
        for j in range(kw):
            yield padded[:, i : Hp - kh + i + 1 : stride, j : Wp - kw + j + 1 : stride]
