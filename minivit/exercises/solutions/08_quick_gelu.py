"""Quick GELU: a sigmoid instead of the normal distribution function.

    y = x σ(1.702 x)

GELU multiplies x by Φ(x). σ(1.702 x) differs from Φ(x) by less than 0.01 and needs only one
exponential. The Vision Transformers of CLIP were trained with it (Radford et al., 2021). With
another GELU, their weights give different results.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "This is the swish of chapter 0 with 1.702 x inside the sigmoid. Apply the product rule\n"
    "again. The chain rule adds a factor of 1.702.",
    "With σ for σ(1.702 x):  y' = σ + 1.702 x σ (1 - σ).",
    "    sigmoid = 1 / (1 + np.exp(-1.702 * x))\n"
    "The pullback returns dy * (sigmoid + 1.702 * y * (1 - sigmoid)), because y = x σ.",
)


def quick_gelu(x: Array) -> tuple[Array, Pullback]:
    """Multiply x by a sigmoid:  y = x σ(1.702 x).

    x, any shape  ->  y, the same shape. The pullback returns dx.
    """
    sigmoid = 1 / (1 + np.exp(-1.702 * x))
    y = x * sigmoid

    def pullback(dy):
        return dy * (sigmoid + 1.702 * y * (1 - sigmoid))

    return y, pullback


def expected(x: Array) -> Array:
    """Compute the expected output one entry at a time."""
    y = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        y[i] = x[i] / (1 + math.exp(-1.702 * x[i]))
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading."""
    return [(2 * rng.normal(size=shape),) for shape in [(5,), (2, 3), (1, 4, 3)]]
