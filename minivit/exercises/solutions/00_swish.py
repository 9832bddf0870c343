"""Swish: x σ(x), a bend that lets a little of the negative side through.

    y = x σ(x),    σ(x) = 1 / (1 + exp(-x))

A computer search among many such curves found it (Ramachandran, Zoph and Le, 2017). The bend that
the transformer has, of chapter 8, is of the same form, with another curve in place of σ.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "y is a product, x times σ, and x stands in both factors. So its slope has two terms: the\n"
    "slope of the first factor times the second, plus the first times the slope of the second.",
    "The slope of σ can be written with σ itself: σ' = σ (1 - σ). So y' = σ + x σ (1 - σ).",
    "Compute σ once, outside of the pullback, which may go on using it:\n"
    "    sigmoid = 1 / (1 + np.exp(-x))\n"
    "and let the pullback return dy times the slope y'.",
)


def swish(x: Array) -> tuple[Array, Pullback]:
    """x times its own sigmoid.

    x, of any shape  ->  y, the same. The pullback returns dx.
    """
    sigmoid = 1 / (1 + np.exp(-x))
    y = x * sigmoid

    def pullback(dy):
        return dy * (sigmoid + y * (1 - sigmoid))

    return y, pullback


def expected(x: Array) -> Array:
    """The value, entry by entry."""
    y = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        y[i] = x[i] / (1 + math.exp(-x[i]))
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on."""
    return [(2 * rng.normal(size=shape),) for shape in [(5,), (2, 3), (1, 4, 3)]]
