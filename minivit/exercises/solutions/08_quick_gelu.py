"""Quick GELU: the normal distribution function, replaced by a sigmoid that runs close to it.

    y = x σ(1.702 x)

GELU weighs x by Φ(x). σ(1.702 x) never differs from Φ(x) by more than 0.01, and costs one exp.
The vision transformers of CLIP were trained with it (Radford et al., 2021), and read with another
GELU their weights give other answers.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "It is the swish of chapter 0 with 1.702 x inside the sigmoid. The product rule again; the\n"
    "chain rule brings one more factor.",
    "With σ for σ(1.702 x):  y' = σ + 1.702 x σ (1 - σ).",
    "    sigmoid = 1 / (1 + np.exp(-1.702 * x))\n"
    "and in the pullback dy * (sigmoid + 1.702 * y * (1 - sigmoid)), since y = x σ.",
)


def quick_gelu(x: Array) -> tuple[Array, Pullback]:
    """x weighed by a sigmoid:  y = x σ(1.702 x).

    x, of any shape  ->  y, the same. The pullback returns dx.
    """
    sigmoid = 1 / (1 + np.exp(-1.702 * x))
    y = x * sigmoid

    def pullback(dy):
        return dy * (sigmoid + 1.702 * y * (1 - sigmoid))

    return y, pullback


def expected(x: Array) -> Array:
    """The value, entry by entry."""
    y = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        y[i] = x[i] / (1 + math.exp(-1.702 * x[i]))
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on."""
    return [(2 * rng.normal(size=shape),) for shape in [(5,), (2, 3), (1, 4, 3)]]
