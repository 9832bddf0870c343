"""Layers as plain loops over patches, tokens and windows."""

import math

import numpy as np


def patches_in_loops(images, P):
    """Cut patches row by row from the top left corner, each in the order row, column, channel."""
    B, H, W, C = images.shape
    patches = [
        [
            [image[top + i, left + j, c] for i in range(P) for j in range(P) for c in range(C)]
            for top in range(0, H, P)
            for left in range(0, W, P)
        ]
        for image in images
    ]
    return np.array(patches).reshape(B, H // P * (W // P), P * P * C)


def layer_norm_in_loops(x, scale, bias, eps):
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape[:-1]):
        row, D = x[index], x.shape[-1]
        mean = sum(row) / D
        variance = sum((entry - mean) ** 2 for entry in row) / D
        y[index] = [
            scale[d] * (row[d] - mean) / math.sqrt(variance + eps) + bias[d] for d in range(D)
        ]
    return y


def softmax_in_loops(scores):
    exps = [math.exp(score) for score in scores]
    return [e / sum(exps) for e in exps]


def attend_in_loops(q, k, v, bias):
    """One head of one image, with q already divided by √Dh. Returns A and A v."""
    T = len(q)
    A = [softmax_in_loops([q[i] @ k[j] + bias[i, j] for j in range(T)]) for i in range(T)]
    return np.array(A), np.array([sum(A[i][j] * v[j] for j in range(T)) for i in range(T)])


def offset_row(i, j, T, rows, class_token):
    """Return the row of the relative table for query i and key j.

    The last three rows are those of the class token: to a patch, from a patch, and to itself.
    """
    if class_token:
        if i == j == 0:
            return rows - 1
        if i == 0 or j == 0:
            return rows - 3 if i == 0 else rows - 2
    return i - j + T - class_token - 1


def heads_in_loops(z, qkv, heads, table=None, class_token=True):
    """Equations 5 to 7 for each image and head, concatenated.  z (B, T, D)  ->  (B, T, D)"""
    B, T, D = z.shape
    Dh = D // heads
    concatenated = np.zeros((B, T, D))
    for b, head in np.ndindex(B, heads):
        columns = [range(part * D + head * Dh, part * D + head * Dh + Dh) for part in range(3)]
        q, k, v = (z[b] @ qkv["kernel"][:, own] + qkv["bias"][own] for own in columns)  # (5)
        q = q / math.sqrt(Dh)
        bias = np.zeros((T, T))
        if table is not None:
            own = table[:, head * Dh : head * Dh + Dh]
            for i, j in np.ndindex(T, T):
                bias[i, j] = q[i] @ own[offset_row(i, j, T, len(table), class_token)]
        concatenated[b, :, head * Dh : head * Dh + Dh] = attend_in_loops(q, k, v, bias)[1]
    return concatenated


def cross_entropy_in_loops(logits, targets):
    total = 0
    for row, target in zip(logits, targets, strict=True):
        p = softmax_in_loops(row)
        total -= sum(t * math.log(p_c) for t, p_c in zip(target, p, strict=True))
    return total / len(logits)


def same_windows(n, side, stride):
    """TensorFlow's rule for SAME padding. Returns (windows, padding before, padding after)."""
    windows = math.ceil(n / stride)
    last = side - stride if n % stride == 0 else side - n % stride
    padding = max(last, 0)
    return windows, padding // 2, math.ceil(padding / 2)


def windows_in_loops(x, sides, stride):
    """Yield ((b, row, column), [(i, j, pixel)]) for every window, without the padding."""
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
    for place, pixels in windows_in_loops(x, kernel.shape[:2], stride):
        for i, j, pixel in pixels:
            y[place] += pixel @ kernel[i, j]
    return y


def max_pool_in_loops(x, side, stride):
    y = empty_map(x, (side, side), stride, x.shape[3])
    for place, pixels in windows_in_loops(x, (side, side), stride):
        y[place] = np.max([pixel for _, _, pixel in pixels], axis=0)
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
