"""Softmax with a temperature that is learned.

    p = softmax(x / τ)

A small τ makes the largest score take all, a large one makes all weights alike. Attention has a
fixed one, √Dh. Here τ is a parameter, so the loss may choose it, and τ needs a gradient.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback
from minivit.layers import softmax

HINTS = (
    "Two steps, one after the other: s = x / τ, then p = softmax(s). The library's softmax has a\n"
    "pullback, so take it: p, softmax_back = softmax(x / temperature). What is left is division.",
    "From ds, the gradient of s = x / τ:\n"
    "    dx = ds / τ\n"
    "    dτ = the sum over all entries of ds times (-x / τ²)",
    "    dtemperature = -(ds * x).sum() / temperature**2\n"
    "The sum over everything is one number; temperature makes it an array of shape (1,).",
)


def softmax_with_temperature(x: Array, temperature: Array) -> tuple[Array, Pullback]:
    """Scores become weights, more or less evenly:  p = softmax(x / temperature).

    x (..., n), temperature (1,)  ->  p (..., n), each row sums to one.
    The pullback returns (dx, {"temperature": dtemperature}).
    """
    p, softmax_back = softmax(x / temperature)

    def pullback(dp):
        ds = softmax_back(dp)  # (..., n)
        dtemperature = -(ds * x).sum() / temperature**2  # (1,)
        return ds / temperature, {"temperature": dtemperature}

    return p, pullback


def expected(x: Array, temperature: Array) -> Array:
    """The value, row by row."""
    p = np.empty(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        largest = max(x[row])
        exps = [math.exp((score - largest) / temperature[0]) for score in x[row]]
        p[row] = [number / sum(exps) for number in exps]
    return p


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on; exp of the last scores is too large for a float."""
    sets = [((2, 3, 4), 0.0, 0.5), ((5,), 0.0, 3.0), ((2, 3), 800.0, 1.0)]
    return [(shift + rng.normal(size=shape), np.array([tau])) for shape, shift, tau in sets]
