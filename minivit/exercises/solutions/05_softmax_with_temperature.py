"""Softmax with temperature: a learned parameter sets how concentrated the weights are.

    p = softmax(x / τ)

A small temperature τ concentrates the weight on the largest score, and a large one makes all
weights equal. Attention has a fixed temperature, √Dh. Here τ is a parameter with a gradient.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback
from minivit.layers import softmax

HINTS = (
    "Compute s = x / τ, then p = softmax(s). The library's softmax returns a pullback that you\n"
    "can use: p, softmax_back = softmax(x / temperature). Only the division remains.",
    "With ds, the gradient of s = x / τ:\n"
    "    dx = ds / τ\n"
    "    dτ = the sum over all entries of ds times (-x / τ²)",
    "    dtemperature = -(ds * x).sum() / temperature**2\n"
    "The sum is a single number. Dividing by temperature**2 gives it the shape (1,).",
)


def softmax_with_temperature(x: Array, temperature: Array) -> tuple[Array, Pullback]:
    """Turn scores into weights:  p = softmax(x / temperature).

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
    """Compute the value row by row."""
    p = np.empty(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        largest = max(x[row])
        exps = [math.exp((score - largest) / temperature[0]) for score in x[row]]
        p[row] = [number / sum(exps) for number in exps]
    return p


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading. In the last set, exp of the scores would overflow."""
    sets = [((2, 3, 4), 0.0, 0.5), ((5,), 0.0, 3.0), ((2, 3), 800.0, 1.0)]
    return [(shift + rng.normal(size=shape), np.array([tau])) for shape, shift, tau in sets]
