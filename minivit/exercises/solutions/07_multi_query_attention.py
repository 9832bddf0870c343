"""Multi-query attention: each head has its own queries, and all heads share the keys and values.

    y_i = softmax(q_i kᵀ / √Dh) v    for each head i

A language model that generates text caches the keys and values of all previous tokens. With one
key and value head instead of h, the cache is h times smaller (Shazeer, 2019). In the backward pass,
the shared keys and values receive gradients from all heads.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback
from minivit.layers import softmax

HINTS = (
    "Give k and v an axis of length 1 for the heads: k[:, None] has shape (B, 1, T, Dh).\n"
    "Broadcasting then shares it. What is the pullback of broadcasting?",
    "Every head contributes to the gradients of the shared keys and values. Compute dk and dv as\n"
    "if each head had its own, (B, h, T, Dh), and sum over the heads, axis 1. The factor 1 / √Dh\n"
    "of q also applies to dq.",
    "With scaled = q / math.sqrt(Dh) and A, softmax_back = softmax(scaled @ keysᵀ):\n"
    "    dscores = softmax_back(dy @ values.swapaxes(-1, -2))\n"
    "    dq = dscores @ keys / math.sqrt(Dh)\n"
    "    dk = (dscores.swapaxes(-1, -2) @ scaled).sum(1)\n"
    "    dv = (A.swapaxes(-1, -2) @ dy).sum(1)",
)


def multi_query_attention(q: Array, k: Array, v: Array) -> tuple[Array, Pullback]:
    """Attend with several heads to the same keys and values. q is divided by √Dh here.

    q (B, h, T, Dh), k and v (B, T, Dh)  ->  y (B, h, T, Dh)
    The pullback returns (dq, dk, dv).
    """
    root = math.sqrt(q.shape[-1])
    scaled, keys, values = q / root, k[:, None], v[:, None]  # keys, values (B, 1, T, Dh)
    A, softmax_back = softmax(scaled @ keys.swapaxes(-1, -2))  # (B, h, T, T)

    def pullback(dy):
        dscores = softmax_back(dy @ values.swapaxes(-1, -2))
        dk = (dscores.swapaxes(-1, -2) @ scaled).sum(1)  # all heads share k
        dv = (A.swapaxes(-1, -2) @ dy).sum(1)
        return dscores @ keys / root, dk, dv

    return A @ values, pullback


def expected(q: Array, k: Array, v: Array) -> Array:
    """Compute the value query by query."""
    y = np.zeros(q.shape)
    for b, h, i in np.ndindex(q.shape[:-1]):
        root = math.sqrt(q.shape[-1])
        weights = [math.exp(sum(q[b, h, i] * key) / root) for key in k[b]]
        for weight, value in zip(weights, v[b], strict=True):
            y[b, h, i] += weight / sum(weights) * value
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading."""
    sizes = [(2, 3, 4, 2), (1, 2, 3, 3), (2, 2, 2, 3)]
    return [
        (rng.normal(size=(B, heads, T, Dh)), *rng.normal(size=(2, B, T, Dh)))
        for B, heads, T, Dh in sizes
    ]
