"""Swish: a smooth activation, x σ(x).

    y = x σ(x),    σ(x) = 1 / (1 + exp(-x))

It was found by an automated search over activation functions (Ramachandran, Zoph and Le, 2017).
Unlike ReLU, it is smooth and lets small negative values through. GELU, the activation of the
Transformer (chapter 8), has the same form with the normal distribution function in place of σ.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "y is the product of x and σ, and both factors depend on x. By the product rule, the\n"
    "derivative has two terms.",
    "The derivative of σ can be written in terms of σ: σ' = σ (1 - σ). So y' = σ + x σ (1 - σ).",
    "Compute σ once in the forward pass. The pullback can use it through its closure:\n"
    "    sigmoid = 1 / (1 + np.exp(-x))\n"
    "The pullback returns dy times y'.",
)


def swish(x: Array) -> tuple[Array, Pullback]:
    """Multiply x by its sigmoid:  y = x σ(x).

    x, any shape  ->  y, the same shape. The pullback returns dx.
    """
    sigmoid = 1 / (1 + np.exp(-x))
    y = x * sigmoid

    def pullback(dy):
        return dy * (sigmoid + y * (1 - sigmoid))

    return y, pullback


def expected(x: Array) -> Array:
    """Compute the expected output one entry at a time."""
    y = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        y[i] = x[i] / (1 + math.exp(-x[i]))
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading."""
    return [(2 * rng.normal(size=shape),) for shape in [(5,), (2, 3), (1, 4, 3)]]
