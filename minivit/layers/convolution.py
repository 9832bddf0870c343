"""Convolution with weight standardisation, used in the hybrid's ResNet."""

from ..arrays import Array, Pullback, array_module, widen_float16
from .linear import linear
from .padding import crop_same, pad_same, window_views


@widen_float16
def convolution(x: Array, kernel: Array, stride: int = 1) -> tuple[Array, Pullback]:
    """Multiply every window of the feature map by a matrix, with SAME padding and no bias.

    x (B, H, W, C), kernel (kh, kw, C, E)  ->  y (B, h, w, E), h = ⌈H / stride⌉, w = ⌈W / stride⌉
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


@widen_float16
def standardise(kernel: Array) -> tuple[Array, Pullback]:
    """Give the weights of every output channel zero mean and unit standard deviation.

    kernel (kh, kw, C, E)  ->  w_hat = (w - mean) / (σ + 1e-5), the same shape
    The mean and the population standard deviation σ are taken over all axes except the last. Other
    implementations add an epsilon inside the square root instead. (Qiao et al., 2019)
    """
    xp = array_module(kernel)
    shape, E = kernel.shape, kernel.shape[-1]
    rows = kernel.reshape(-1, E)  # (n, E)
    average = xp.full((1, len(rows)), 1 / len(rows), dtype=kernel.dtype)
    centred = rows - average @ rows  # (n, E)
    centred -= average @ centred  # remove the remaining rounding error
    sigma = (average @ (centred * centred)) ** 0.5  # (1, E)
    divisor = sigma + 1e-5
    w_hat = xp.divide(centred, divisor, out=centred)  # reuse the memory of `centred`

    def pullback(dw_hat: Array) -> Array:
        # As in layer norm, remove the component along 1 and, up to the epsilon, the component
        # along w_hat. For constant weights, the derivative of σ is 0 / 0, but the component is
        # zero, because w_hat is zero.
        drows = dw_hat.reshape(-1, E)
        along = average @ (drows * w_hat)  # (1, E)
        along /= xp.where(sigma.real > 0, sigma, 1)
        drows = (drows - average @ drows) / divisor - along * w_hat
        return drows.reshape(shape)

    return w_hat.reshape(shape), pullback


def standardised_convolution(x: Array, kernel: Array, stride: int = 1) -> tuple[Array, Pullback]:
    """Convolve with the standardised kernel. The shapes are those of `convolution`."""
    w_hat, standardise_back = standardise(kernel)
    y, convolution_back = convolution(x, w_hat, stride)

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        dx, dparams = convolution_back(dy)
        return dx, {"kernel": standardise_back(dparams["kernel"])}

    return y, pullback


def extract_windows(x: Array, sides: tuple[int, int], stride: int) -> Array:
    """Copy each window in the kernel's order (im2col).  x (B, H, W, C)  ->  (B, h, w, kh kw C)"""
    if sides == (1, 1):
        return x[:, ::stride, ::stride]
    views = list(window_views(pad_same(x, sides, stride), sides, stride))
    B, h, w, C = views[0].shape
    windows = array_module(x).empty((B, h, w, len(views), C), dtype=x.dtype)
    for n, view in enumerate(views):
        windows[:, :, :, n] = view
    return windows.reshape(B, h, w, -1)


def accumulate_windows(
    dwindows: Array, shape: tuple[int, ...], sides: tuple[int, int], stride: int
) -> Array:
    """Sum the gradients of overlapping windows (col2im).  (B, h, w, kh kw C)  ->  (B, H, W, C)"""
    if sides == (1, 1) and stride == 1:
        return dwindows
    B, H, W, C = shape
    h, w = dwindows.shape[1:3]
    by_offset = dwindows.reshape(B, h, w, -1, C)
    dpadded = pad_same(array_module(dwindows).zeros(shape, dtype=dwindows.dtype), sides, stride)
    for n, dview in enumerate(window_views(dpadded, sides, stride)):
        dview += by_offset[:, :, :, n]
    return crop_same(dpadded, H, W, sides, stride)
