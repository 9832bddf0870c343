"""Windowed attention: every token looks only at the tokens of its own window.

The T tokens are cut into windows of w consecutive ones, and attention stays inside of each:

    y = softmax(q kᵀ / √Dh) v    in every window

Then it costs T w scores instead of T², linear in T. Swin, whose windows are squares of the image,
rests on this (Liu et al., 2021). Here a window is a stretch of the sequence.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback
from minivit.layers import softmax

HINTS = (
    "No mask is needed, and no loop: the attention of chapter 6 works on whatever axes stand in\n"
    "front. Make the windows one of them.",
    "A reshape from (B, k, T, Dh) to (B, k, T / w, w, Dh) puts each window's tokens on an axis of\n"
    "their own. Attend there, and reshape back. The pullback of a reshape is a reshape.",
    "    windows = (*q.shape[:2], -1, window, q.shape[-1])\n"
    "    queries, keys, values = (a.reshape(windows) for a in (q, k, v))\n"
    "then attention with its pullback on these, and q.shape for everything that is returned.",
)


def windowed_attention(q: Array, k: Array, v: Array, window: int) -> tuple[Array, Pullback]:
    """Attention inside windows of consecutive tokens; q is divided by √Dh here.

    q, k, v (B, heads, T, Dh), T a multiple of `window`  ->  y (B, heads, T, Dh)
    The pullback returns (dq, dk, dv).
    """
    root = math.sqrt(q.shape[-1])
    windows = (*q.shape[:2], -1, window, q.shape[-1])
    scaled, keys, values = (a.reshape(windows) for a in (q / root, k, v))
    A, softmax_back = softmax(scaled @ keys.swapaxes(-1, -2))  # (B, heads, T / w, w, w)

    def pullback(dy):
        dy_windows = dy.reshape(windows)
        dscores = softmax_back(dy_windows @ values.swapaxes(-1, -2))
        dq, dk = dscores @ keys / root, dscores.swapaxes(-1, -2) @ scaled
        dv = A.swapaxes(-1, -2) @ dy_windows
        return dq.reshape(q.shape), dk.reshape(q.shape), dv.reshape(q.shape)

    return (A @ values).reshape(q.shape), pullback


def expected(q: Array, k: Array, v: Array, window: int) -> Array:
    """The value, query by query."""
    y = np.zeros(q.shape)
    for b, h, i in np.ndindex(q.shape[:-1]):
        start = i - i % window
        stretch = slice(start, start + window)
        keys, values = k[b, h, stretch], v[b, h, stretch]
        weights = [math.exp(sum(q[b, h, i] * key) / math.sqrt(q.shape[-1])) for key in keys]
        for weight, value in zip(weights, values, strict=True):
            y[b, h, i] += weight / sum(weights) * value
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on: several windows, and one that holds all."""
    sets = [((2, 2, 6, 3), 2), ((1, 3, 6, 2), 3), ((1, 1, 4, 2), 4)]
    return [(*rng.normal(size=(3, *shape)), window) for shape, window in sets]
