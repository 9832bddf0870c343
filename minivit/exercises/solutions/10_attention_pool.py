"""Attention pooling: a weighted mean of the tokens, with weights that depend on the tokens.

    w = softmax over the tokens of  z · probe / √D,    y = Σ_t w_t z_t

A learned query, the probe, attends to all tokens after the last block and replaces the class token
(Zhai et al., 2022, use multi-head attention followed by an MLP). Each token contributes to its
score and to the mean, so its gradient has two terms.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback
from minivit.layers import softmax

HINTS = (
    "z is used twice, so dz is a sum of two terms: one through the mean, with constant weights,\n"
    "and one through the weights.",
    "Through the mean, token t receives w_t dy. Through the weights: dw_t = z_t · dy, then the\n"
    "pullback of softmax gives ds_t, and the token receives ds_t probe / √D. The probe receives\n"
    "the sum of ds_t z_t / √D over all tokens of all images.",
    "    scores = z @ probe / math.sqrt(D)                        # (B, T)\n"
    "    w, softmax_back = softmax(scores)\n"
    "    y = (w[..., None] * z).sum(1)\n"
    "In the backward pass, ds = softmax_back((z * dy[:, None]).sum(-1)) / math.sqrt(D).",
)


def attention_pool(z: Array, probe: Array) -> tuple[Array, Pullback]:
    """Pool the tokens with one learned query:  y = Σ w_t z_t,  w = softmax(z · probe / √D).

    z (B, T, D), probe (D,)  ->  y (B, D). The pullback returns (dz, {"probe": dprobe}).
    """
    root = math.sqrt(len(probe))
    w, softmax_back = softmax(z @ probe / root)  # (B, T)

    def pullback(dy):
        ds = softmax_back((z * dy[:, None]).sum(-1)) / root  # (B, T)
        dz = w[..., None] * dy[:, None] + ds[..., None] * probe
        return dz, {"probe": (ds[..., None] * z).sum((0, 1))}

    return (w[..., None] * z).sum(1), pullback


def expected(z: Array, probe: Array) -> Array:
    """Compute the value token by token."""
    B, T, D = z.shape
    y = np.zeros((B, D))
    for b in range(B):
        weights = [math.exp(sum(z[b, t] * probe) / math.sqrt(D)) for t in range(T)]
        for t in range(T):
            y[b] += weights[t] / sum(weights) * z[b, t]
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading. If T = D, a sum over the wrong axis changes only values."""
    return [
        (rng.normal(size=shape), 2 * rng.normal(size=shape[-1]))
        for shape in [(2, 4, 3), (3, 3, 3), (1, 2, 5)]
    ]
