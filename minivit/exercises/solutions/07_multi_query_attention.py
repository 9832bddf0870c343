"""Multi-query attention: every head has its own queries, all share one key and one value.

    y_h = softmax(q_h kᵀ / √Dh) v    for each head h

A model that writes a text word by word keeps the keys and values of all words before; with one
head of them instead of k, that is k times less to keep and to read (Shazeer, 2019). Going back,
what is shared collects from everyone who shared it.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback
from minivit.layers import softmax

HINTS = (
    "Give k and v an axis for the heads, of length 1, and broadcasting does the sharing:\n"
    "k[:, None] has shape (B, 1, T, Dh). Broadcasting copies; what does that mean going back?",
    "Every head adds its part to the gradient of the one key head and the one value head: compute\n"
    "dk and dv as if each head had its own, (B, k, T, Dh), then sum over the heads, axis 1.\n"
    "And the 1 / √Dh, which stands before q, stands before dq.",
    "With scaled = q / math.sqrt(Dh) and A, softmax_back = softmax(scaled @ keysᵀ):\n"
    "    dscores = softmax_back(dy @ values.swapaxes(-1, -2))\n"
    "    dq = dscores @ keys / math.sqrt(Dh)\n"
    "    dk = (dscores.swapaxes(-1, -2) @ scaled).sum(1)\n"
    "    dv = (A.swapaxes(-1, -2) @ dy).sum(1)",
)


def multi_query_attention(q: Array, k: Array, v: Array) -> tuple[Array, Pullback]:
    """Attention of many heads with the same keys and values; q is divided by √Dh here.

    q (B, heads, T, Dh), k and v (B, T, Dh)  ->  y (B, heads, T, Dh)
    The pullback returns (dq, dk, dv).
    """
    root = math.sqrt(q.shape[-1])
    scaled, keys, values = q / root, k[:, None], v[:, None]  # keys, values (B, 1, T, Dh)
    A, softmax_back = softmax(scaled @ keys.swapaxes(-1, -2))  # (B, heads, T, T)

    def pullback(dy):
        dscores = softmax_back(dy @ values.swapaxes(-1, -2))
        dk = (dscores.swapaxes(-1, -2) @ scaled).sum(1)  # all heads share it
        dv = (A.swapaxes(-1, -2) @ dy).sum(1)
        return dscores @ keys / root, dk, dv

    return A @ values, pullback


def expected(q: Array, k: Array, v: Array) -> Array:
    """The value, query by query."""
    y = np.zeros(q.shape)
    for b, h, i in np.ndindex(q.shape[:-1]):
        root = math.sqrt(q.shape[-1])
        weights = [math.exp(sum(q[b, h, i] * key) / root) for key in k[b]]
        for weight, value in zip(weights, v[b], strict=True):
            y[b, h, i] += weight / sum(weights) * value
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on."""
    sizes = [(2, 3, 4, 2), (1, 2, 3, 3), (2, 2, 2, 3)]
    return [
        (rng.normal(size=(B, heads, T, Dh)), *rng.normal(size=(2, B, T, Dh)))
        for B, heads, T, Dh in sizes
    ]
