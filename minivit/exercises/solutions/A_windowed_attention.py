"""Windowed attention: each token attends only to the tokens of its own window.

The T tokens are divided into windows of w consecutive tokens, with attention inside each window:

    y = softmax(q kᵀ / √Dh) v    in every window

This computes T w scores instead of T², so the cost is linear in T. It is the basis of Swin
Transformer, in which the windows are squares of the image (Liu et al., 2021). Here a window is a
section of the sequence.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback
from minivit.layers import softmax

HINTS = (
    "Neither a mask nor a loop is needed. The attention of chapter 6 accepts any leading axes, so\n"
    "make the windows one of them.",
    "A reshape from (B, h, T, Dh) to (B, h, T / w, w, Dh) gives the tokens of each window their\n"
    "own axis. Compute attention there and reshape back. The pullback of a reshape is a reshape.",
    "    windows = (*q.shape[:2], -1, window, q.shape[-1])\n"
    "    queries, keys, values = (a.reshape(windows) for a in (q, k, v))\n"
    "Apply attention and its pullback to these arrays, and reshape all results to q.shape.",
)


def windowed_attention(q: Array, k: Array, v: Array, window: int) -> tuple[Array, Pullback]:
    """Attend inside windows of consecutive tokens. q is divided by √Dh here.

    q, k, v (B, h, T, Dh), T a multiple of `window`  ->  y (B, h, T, Dh)
    The pullback returns (dq, dk, dv).
    """
    root = math.sqrt(q.shape[-1])
    windows = (*q.shape[:2], -1, window, q.shape[-1])
    scaled, keys, values = (a.reshape(windows) for a in (q / root, k, v))
    A, softmax_back = softmax(scaled @ keys.swapaxes(-1, -2))  # (B, h, T / w, w, w)

    def pullback(dy):
        dy_windows = dy.reshape(windows)
        dscores = softmax_back(dy_windows @ values.swapaxes(-1, -2))
        dq, dk = dscores @ keys / root, dscores.swapaxes(-1, -2) @ scaled
        dv = A.swapaxes(-1, -2) @ dy_windows
        return dq.reshape(q.shape), dk.reshape(q.shape), dv.reshape(q.shape)

    return (A @ values).reshape(q.shape), pullback


def expected(q: Array, k: Array, v: Array, window: int) -> Array:
    """Compute the value query by query."""
    y = np.zeros(q.shape)
    for b, h, i in np.ndindex(q.shape[:-1]):
        start = i - i % window
        section = slice(start, start + window)
        keys, values = k[b, h, section], v[b, h, section]
        weights = [math.exp(sum(q[b, h, i] * key) / math.sqrt(q.shape[-1])) for key in keys]
        for weight, value in zip(weights, values, strict=True):
            y[b, h, i] += weight / sum(weights) * value
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return inputs with several windows and with a single window."""
    sets = [((2, 2, 6, 3), 2), ((1, 3, 6, 2), 3), ((1, 1, 4, 2), 4)]
    return [(*rng.normal(size=(3, *shape)), window) for shape, window in sets]
