"""The layers of the ResNet as plain loops."""

import math

import numpy as np


def same_windows(n, side, stride):
    """Return (windows, padding before, padding after) of SAME padding in TensorFlow."""
    windows = math.ceil(n / stride)
    last = side - stride if n % stride == 0 else side - n % stride
    padding = max(last, 0)
    return windows, padding // 2, math.ceil(padding / 2)


def windows_in_loops(x, sides, stride):
    """Yield ((b, row, column), [(i, j, pixel), ...]) for each window, without the padding."""
    B, H, W, _ = x.shape
    h, top, _ = same_windows(H, sides[0], stride)
    w, left, _ = same_windows(W, sides[1], stride)
    for b, row, column in np.ndindex(B, h, w):
        pixels = []
        for i, j in np.ndindex(*sides):
            r, c = stride * row - top + i, stride * column - left + j
            if 0 <= r < H and 0 <= c < W:
                pixels.append((i, j, x[b, r, c]))
        yield (b, row, column), pixels


def empty_map(x, sides, stride, channels):
    h, w = (same_windows(n, side, stride)[0] for n, side in zip(x.shape[1:3], sides, strict=True))
    return np.zeros((len(x), h, w, channels))


def convolution_in_loops(x, kernel, stride):
    y = empty_map(x, kernel.shape[:2], stride, kernel.shape[3])
    for index, pixels in windows_in_loops(x, kernel.shape[:2], stride):
        for i, j, pixel in pixels:
            y[index] += pixel @ kernel[i, j]
    return y


def max_pool_in_loops(x, side, stride):
    y = empty_map(x, (side, side), stride, x.shape[3])
    for index, pixels in windows_in_loops(x, (side, side), stride):
        y[index] = np.max([pixel for _, _, pixel in pixels], axis=0)
    return y


def standardise_in_loops(kernel):
    w_hat = np.empty_like(kernel)
    for e in range(kernel.shape[-1]):
        w = kernel[..., e]
        sigma = math.sqrt(((w - w.sum() / w.size) ** 2).sum() / w.size)
        w_hat[..., e] = (w - w.sum() / w.size) / (sigma + 1e-5)
    return w_hat


def group_norm_in_loops(x, scale, bias, groups=32, eps=1e-6):
    x_hat = np.empty_like(x)
    size = x.shape[-1] // groups
    for b, g in np.ndindex(len(x), groups):
        channels = slice(g * size, (g + 1) * size)
        group = x[b, :, :, channels]
        mean = group.sum() / group.size
        sigma = math.sqrt(((group - mean) ** 2).sum() / group.size + eps)
        x_hat[b, :, :, channels] = (group - mean) / sigma
    return x_hat * scale + bias
