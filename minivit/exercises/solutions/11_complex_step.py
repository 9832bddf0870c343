"""Complex step: a derivative without subtraction.

    Im f(x + i h v) / h    with h = 1e-20

is the derivative of f along v. A finite difference subtracts two nearly equal numbers, and most of
their digits cancel. The complex step involves no subtraction, so no digits cancel. The gradient
checker is based on it (Squire and Trapp, 1998).
"""

import math
from collections.abc import Callable

import numpy as np

from minivit.arrays import Array

HINTS = (
    "For small h, f(x + i h v) = f(x) + i h f'(x) v + O(h²). Which part of this complex number\n"
    "contains the derivative?",
    "It is the imaginary part, divided by h. Call f with the complex array x + 1j * h * v and\n"
    "use `.imag` of the result. NumPy's functions accept complex numbers.",
    "The error is O(h²). With h = 1e-20 it is far below the precision of a float. Unlike in a\n"
    "finite difference, reducing h does not cause cancellation.",
)


def complex_step(f: Callable[[Array], Array], x: Array, v: Array) -> Array:
    """Compute the directional derivative of f at x along v to machine precision.

    f maps an array with the shape of x to an array y of any shape and returns no pullback.
    x and v of the same shape  ->  the derivative, with the shape of y
    """
    h = 1e-20
    return f(x + 1j * h * v).imag / h


def wave(x: Array) -> Array:
    """Return a wave with a large offset, which makes finite differences inaccurate."""
    return 1e6 + np.sin(20 * x)


def norm(x: Array) -> Array:
    """Return the norm of a vector."""
    return (x * x).sum() ** 0.5


def expected(f: Callable[[Array], Array], x: Array, v: Array) -> Array:
    """Compute the derivative from its formula."""
    if f is norm:
        return np.float64(sum(x * v) / math.sqrt(sum(x * x)))
    y = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        y[i] = 20 * math.cos(20 * x[i]) * v[i]
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading."""
    return [(wave, *rng.normal(size=(2, 2, 3))), (norm, *rng.normal(size=(2, 5)))]
