"""GELU(x) = x Φ(x), Φ the normal distribution function: the MLP's bend, in its two forms.

The authors' code has the `tanh` form, timm and Hugging Face the exact one, `erf`. Both are

    Φ(x) = ½ (1 + tanh(x p(x²)))

That of the authors' code has two coefficients. With seven, fitted to atanh(erf(x / √2)) / x so
that the largest error of x Φ(x) over max(1, |x|) is as small as can be, 2e-8, it is exact to what
float32 can hold. Wider floats and complex numbers integrate erf.

The way back needs Φ again. The exact form reads it off, y / x: the next layer keeps y in any case.
The tanh form needs 1 - Φ as well, a small difference of which the rounding of y would leave too
few digits, and so it computes tanh once more.
"""

import math
from functools import singledispatch

import numpy as np

from ..arrays import Array, Pullback, array_module, map_blocks

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
TANH = (SQRT_2_OVER_PI, SQRT_2_OVER_PI * 0.044715)
ERF_FLOAT32 = (
    0.797885308, 0.0363320649, -3.17414858e-5, -5.56039514e-5,
    4.01260156e-6, -1.35730506e-7, 1.84666397e-9,
)  # fmt: skip
NODES, WEIGHTS = (array / 2 for array in np.polynomial.legendre.leggauss(24))
GAUSS = list(zip((0.5 + NODES).tolist(), WEIGHTS.tolist(), strict=True))  # on [0, 1]


@singledispatch
def gelu(x: Array, kind: str = "tanh") -> tuple[Array, Pullback]:
    """x weighted by the probability that a normal number is smaller:  y = x Φ(x).

    x, of any shape  ->  y, the same. `kind` is "tanh" (the authors) or "erf" (exact: to
    2e-7 max(1, |x|) in float32, 4e-15 max(1, |x|) in float64). Raises ValueError for another.
    (Hendrycks and Gimpel, 2016)
    """
    if kind == "tanh":
        return gelu_tanh(x)
    if kind == "erf":
        return gelu_erf(x)
    raise ValueError(f"unknown GELU '{kind}': choose 'tanh' or 'erf'")


def gelu_tanh(x: Array) -> tuple[Array, Pullback]:
    """The form of the authors' code: two coefficients."""
    xp = array_module(x)
    a, b = TANH

    def value(y: Array, x: Array) -> None:
        tanh_form(x, TANH, y)

    def gradient(dx: Array, x: Array, dy: Array) -> None:
        # With t = tanh(u) and u = a x + b x³,  y' = ½ (1 + t + x (1 - t) (1 + t) u').
        t = dx  # its memory serves twice
        slope = tanh_of_polynomial(x, TANH, t)  # x², of which u' is made
        slope *= 3 * b
        slope += a
        slope *= 1 - t  # 0 where x³ might overflow
        t += 1
        slope *= t
        slope *= x
        slope += t
        slope *= 0.5
        xp.multiply(slope, dy, out=dx)

    return map_blocks(value, x), lambda dy: map_blocks(gradient, x, dy)


def gelu_erf(x: Array) -> tuple[Array, Pullback]:
    """The exact form: seven coefficients in float32, an integral in anything wider."""
    xp = array_module(x)

    def value(y: Array, x: Array) -> None:
        if x.dtype.itemsize <= 4:  # float32 and below
            tanh_form(x, ERF_FLOAT32, y)
        else:
            xp.multiply(x, 0.5 * (1 + erf(x / math.sqrt(2))), out=y)

    y = map_blocks(value, x)

    def gradient(dx: Array, x: Array, y: Array, dy: Array) -> None:
        # dΦ/dx is the normal density, so y' = Φ + x exp(-x²/2) / √(2π).
        cdf = normal_cdf(x, y, dx)
        slope = x * x
        slope *= -0.5
        xp.exp(slope, out=slope)
        slope *= x
        slope *= 1 / math.sqrt(2 * math.pi)
        slope += cdf
        xp.multiply(slope, dy, out=dx)

    return y, lambda dy: map_blocks(gradient, x, y, dy)


def normal_cdf(x: Array, y: Array, out: Array) -> Array:
    """Φ(x), read off the value: y / x, and a half where both are 0."""
    xp = array_module(x)
    with np.errstate(invalid="ignore"):
        cdf = xp.divide(y, x, out=out)
    cdf[x == 0] = 0.5
    return cdf


def tanh_form(x: Array, p: tuple[float, ...], y: Array) -> None:
    """y = x · ½ (1 + tanh(x p(x²))), written to `y`."""
    tanh_of_polynomial(x, p, y)
    y += 1
    y *= x
    y *= 0.5


def tanh_of_polynomial(x: Array, p: tuple[float, ...], t: Array) -> Array:
    """t = tanh(x p(x²)), with p by Horner's scheme, written to `t`; returns x²."""
    xp = array_module(x)
    with np.errstate(over="ignore"):  # tanh(inf) is 1, as it should be
        square = x * x
        xp.multiply(square, p[-1], out=t)
        for coefficient in p[-2:0:-1]:
            t += coefficient
            t *= square
        t += p[0]
        t *= x
    xp.tanh(t, out=t)
    return square


def erf(z: Array) -> Array:
    """erf(z) = 2 z / √π ∫₀¹ exp(-z² t²) dt, by 24 Gauss nodes, |Re z| clipped at 6."""
    xp = array_module(z)
    z = xp.clip(z.real, -6, 6) + (z - z.real)  # the imaginary part stays
    minus_square = -(z * z)
    integral = xp.zeros_like(z)
    for t, weight in GAUSS:
        integral += weight * xp.exp(minus_square * (t * t))
    return (2 / math.sqrt(math.pi)) * z * integral
