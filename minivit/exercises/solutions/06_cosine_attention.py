"""Cosine attention: scores that do not depend on the norms of queries and keys.

    A = softmax(s · cos(q_i, k_j)),    y = A v

The score of a query and a key is the cosine of the angle between them, times a learned scale s.
In large models, unbounded scores can grow during training until a few pairs of tokens dominate the
attention. Swin Transformer V2 therefore uses this bounded form (Liu et al., 2022).
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback
from minivit.layers import softmax

HINTS = (
    "Divide each query and each key by its norm. The rest is ordinary attention on unit vectors,\n"
    "with s in place of 1 / √Dh. Write the division as a separate function with its own\n"
    "pullback.",
    "A unit vector u = x / |x| is invariant to the norm of x:\n"
    "    dx = (du - u (u · du)) / |x|\n"
    "With cosines c = u_q u_kᵀ and scores s c, the gradient of s is the sum of dscores * c.",
    "The backward pass, with scores = scale * cosines:\n"
    "    dscores = softmax_back(dy @ v.swapaxes(-1, -2)),    dv = A.swapaxes(-1, -2) @ dy\n"
    "    dcosines = scale * dscores\n"
    "    dunit_q = dcosines @ unit_k,    dunit_k = dcosines.swapaxes(-1, -2) @ unit_q\n"
    "Compute the norm as (x * x).sum(-1, keepdims=True) ** 0.5.",
)


def unit(x: Array) -> tuple[Array, Pullback]:
    """Divide each row by its norm.  x (..., Dh)  ->  u (..., Dh)"""
    norm = (x * x).sum(-1, keepdims=True) ** 0.5  # (..., 1)
    u = x / norm
    return u, lambda du: (du - u * (u * du).sum(-1, keepdims=True)) / norm


def cosine_attention(q: Array, k: Array, v: Array, scale: Array) -> tuple[Array, Pullback]:
    """Attend with cosine scores:  y = A v,  A = softmax(scale * cos(q, k)).

    q, k, v (..., T, Dh), scale (1,)  ->  y (..., T, Dh)
    The pullback returns (dq, dk, dv, dscale).
    """
    unit_q, q_back = unit(q)
    unit_k, k_back = unit(k)
    cosines = unit_q @ unit_k.swapaxes(-1, -2)  # (..., T, T)
    A, softmax_back = softmax(scale * cosines)

    def pullback(dy):
        dscores = softmax_back(dy @ v.swapaxes(-1, -2))  # (..., T, T)
        dcosines = scale * dscores
        dq, dk = q_back(dcosines @ unit_k), k_back(dcosines.swapaxes(-1, -2) @ unit_q)
        return dq, dk, A.swapaxes(-1, -2) @ dy, (dscores * cosines).sum().reshape(1)

    return A @ v, pullback


def expected(q: Array, k: Array, v: Array, scale: Array) -> Array:
    """Compute the value query by query."""
    y = np.zeros(q.shape)
    for *outer, i in np.ndindex(q.shape[:-1]):
        query, keys, values = q[(*outer, i)], k[tuple(outer)], v[tuple(outer)]
        scores = []
        for key in keys:
            norms = math.sqrt(sum(query * query)) * math.sqrt(sum(key * key))
            scores.append(scale[0] * sum(query * key) / norms)
        weights = [math.exp(score) for score in scores]
        for weight, value in zip(weights, values, strict=True):
            y[(*outer, i)] += weight / sum(weights) * value
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading. If T = Dh, a missing transpose changes only values."""
    sizes = [((2, 4, 3), 2.0), ((3, 3), 5.0), ((1, 2, 3, 2), 0.5)]
    return [(*rng.normal(size=(3, *shape)), np.array([s])) for shape, s in sizes]
