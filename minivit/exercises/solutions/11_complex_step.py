"""The complex step: a derivative without a difference.

    Im f(x + i h v) / h    with h = 1e-20

tells how fast f changes as x moves along v. A finite difference subtracts two numbers that are
nearly equal, and what is left of their digits is noise; here nothing is subtracted. It is the
whole of the gradient checker's idea (Squire and Trapp, 1998).
"""

import math
from collections.abc import Callable

import numpy as np

from minivit.arrays import Array

HINTS = (
    "For small h, f(x + i h v) = f(x) + i h f'(x) v + terms in h² and smaller. Where in that\n"
    "complex number does the derivative stand?",
    "It is the imaginary part, times h. So hand f the complex array x + 1j * h * v, take `.imag`\n"
    "of what it returns, and divide by h. NumPy's functions take complex numbers.",
    "The error is of the order h². With h = 1e-20 it is far below what a float can hold, and,\n"
    "unlike in a difference, h cannot be too small.",
)


def complex_step(f: Callable[[Array], Array], x: Array, v: Array) -> Array:
    """The directional derivative of f at x along v, to machine precision.

    f takes an array like x and returns an array y of any shape, with no pullback; v is shaped
    like x  ->  the derivative, shaped like y.
    """
    h = 1e-20
    return f(x + 1j * h * v).imag / h


def wave(x: Array) -> Array:
    """A wave on a high plateau: the difference of two such numbers has few digits left."""
    return 1e6 + np.sin(20 * x)


def norm(x: Array) -> Array:
    """The length of a vector: one number."""
    return (x * x).sum() ** 0.5


def expected(f: Callable[[Array], Array], x: Array, v: Array) -> Array:
    """The derivative, from the rules of calculus."""
    if f is norm:
        return np.float64(sum(x * v) / math.sqrt(sum(x * x)))
    y = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        y[i] = 20 * math.cos(20 * x[i]) * v[i]
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on."""
    return [(wave, *rng.normal(size=(2, 2, 3))), (norm, *rng.normal(size=(2, 5)))]
