"""The convolution of the hybrid's ResNet: one linear layer that looks through windows."""

from ..arrays import Array, Pullback, array_module
from .linear import linear
from .padding import crop_same, pad_same, window_views


def convolution(x: Array, kernel: Array, stride: int = 1) -> tuple[Array, Pullback]:
    """The same matrix for every window of the map, SAME padded (`padding.py`); no bias.

    x (B, H, W, C), kernel (kh, kw, C, E)  ->  (B, h, w, E), with H / stride and W / stride
    rounded up
    """
    kh, kw, C, E = kernel.shape
    shape = x.shape
    windows = extract_windows(x, (kh, kw), stride)  # (B, h, w, kh kw C)
    y, linear_back = linear(windows, kernel.reshape(kh * kw * C, E))

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        dwindows, dparams = linear_back(dy)
        dx = accumulate_windows(dwindows, shape, (kh, kw), stride)
        return dx, {"kernel": dparams["kernel"].reshape(kh, kw, C, E)}

    return y, pullback


def standardise(kernel: Array) -> tuple[Array, Pullback]:
    """Every output's weights at zero mean and unit deviation, whatever was learned.

    kernel (kh, kw, C, E)  ->  the same shape: w_hat = (w - mean) / (σ + 1e-5), mean and σ, the
    population's, over all but the last axis. Others put an ε inside σ's root, and differ by it.
    (Qiao et al., 2019; in the authors' ResNets at each forward)
    """
    xp = array_module(kernel)
    shape, E = kernel.shape, kernel.shape[-1]
    rows = kernel.reshape(-1, E)  # (n, E)
    average = xp.full((1, len(rows)), 1 / len(rows), dtype=kernel.dtype)
    centred = rows - average @ rows  # (n, E)
    centred -= average @ centred  # the mean as it was rounded is not 0
    sigma = (average @ (centred * centred)) ** 0.5  # (1, E)
    divisor = sigma + 1e-5
    w_hat = xp.divide(centred, divisor, out=centred)  # centred has done its work

    def pullback(dw_hat: Array) -> Array:
        # As in a layer norm, the part along 1 goes, for the mean forgets it, and nearly all of
        # the part along w_hat. σ's own slope, centred / (n σ), is 0 / 0 for constant weights:
        # there w_hat stays at zero, and so does the part.
        drows = dw_hat.reshape(-1, E)
        along = average @ (drows * w_hat)  # (1, E)
        along /= xp.where(sigma.real > 0, sigma, 1)
        drows = (drows - average @ drows) / divisor - along * w_hat
        return drows.reshape(shape)

    return w_hat.reshape(shape), pullback


def standardised_convolution(x: Array, kernel: Array, stride: int = 1) -> tuple[Array, Pullback]:
    """A convolution with the standardised kernel.

    x (B, H, W, C), kernel (kh, kw, C, E)  ->  (B, h, w, E), as `convolution`
    """
    w_hat, standardise_back = standardise(kernel)
    y, convolution_back = convolution(x, w_hat, stride)

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        dx, dparams = convolution_back(dy)
        return dx, {"kernel": standardise_back(dparams["kernel"])}

    return y, pullback


def extract_windows(x: Array, sides: tuple[int, int], stride: int) -> Array:
    """What each window sees, in the kernel's order: x (B, H, W, C)  ->  (B, h, w, kh kw C)"""
    if sides == (1, 1):
        return x[:, ::stride, ::stride]  # no copy where the stride is 1
    views = list(window_views(pad_same(x, sides, stride), sides, stride))
    B, h, w, C = views[0].shape
    windows = array_module(x).empty((B, h, w, len(views), C), dtype=x.dtype)
    for n, seen in enumerate(views):
        windows[:, :, :, n] = seen
    return windows.reshape(B, h, w, -1)


def accumulate_windows(
    dwindows: Array, shape: tuple[int, ...], sides: tuple[int, int], stride: int
) -> Array:
    """The way back, (B, H, W, C): each number adds up what the windows that saw it hand down."""
    if sides == (1, 1) and stride == 1:
        return dwindows
    B, H, W, C = shape
    h, w = dwindows.shape[1:3]
    by_place = dwindows.reshape(B, h, w, -1, C)
    dpadded = pad_same(array_module(dwindows).zeros(shape, dtype=dwindows.dtype), sides, stride)
    for n, dseen in enumerate(window_views(dpadded, sides, stride)):
        dseen += by_place[:, :, :, n]
    return crop_same(dpadded, H, W, sides, stride)
