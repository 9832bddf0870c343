"""Attention pooling: the tokens of an image, averaged with weights that depend on the tokens.

    w = softmax over the tokens of  z · probe / √D,    y = Σ_t w_t z_t

In place of a class token, one learned query, the probe, asks all tokens once, at the end (in a
larger form in Zhai et al., 2022). A token enters twice: in the score that weighs it, and in the
mean. So its gradient has two parts.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback
from minivit.layers import softmax

HINTS = (
    "z enters in two places, so dz is a sum of two parts: one through the mean, with the weights\n"
    "held fixed, and one through the weights.",
    "Through the mean: w_t dy for token t. Through the weights: dw_t = z_t · dy, then back\n"
    "through the softmax to ds_t, then ds_t probe / √D. The probe gets the sum of ds_t z_t / √D\n"
    "over all tokens of all images.",
    "    scores = z @ probe / math.sqrt(D)                        # (B, T)\n"
    "    w, softmax_back = softmax(scores)\n"
    "    y = (w[..., None] * z).sum(1)\n"
    "and back, ds = softmax_back((z * dy[:, None]).sum(-1)) / math.sqrt(D).",
)


def attention_pool(z: Array, probe: Array) -> tuple[Array, Pullback]:
    """One learned query pools the tokens:  y = Σ w_t z_t,  w = softmax(z · probe / √D).

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
    """The value, token by token."""
    B, T, D = z.shape
    y = np.zeros((B, D))
    for b in range(B):
        weights = [math.exp(sum(z[b, t] * probe) / math.sqrt(D)) for t in range(T)]
        for t in range(T):
            y[b] += weights[t] / sum(weights) * z[b, t]
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on; T = D in the second hides a sum over the wrong axis."""
    return [
        (rng.normal(size=shape), 2 * rng.normal(size=shape[-1]))
        for shape in [(2, 4, 3), (3, 3, 3), (1, 2, 5)]
    ]
