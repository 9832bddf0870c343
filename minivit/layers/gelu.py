"""GELU(x) = x Φ(x), the nonlinearity of the MLP. Φ is the standard normal distribution function.

The authors' code uses the tanh approximation; timm and Hugging Face use the exact form. Both are

    Φ(x) = ½ (1 + tanh(x p(x²)))

In the approximation, the polynomial p has two coefficients. With seven coefficients, fitted to
atanh(erf(x / √2)) / x, the largest error of x Φ(x) / max(1, |x|) is 2e-8, which is below the
rounding error of float32. For float64 and complex numbers, erf is integrated numerically.

The backward pass needs Φ again. The exact form computes it as y / x, because the next layer retains
y anyway. The tanh form also needs 1 - Φ, which y / x does not give precisely enough. It therefore
evaluates tanh a second time.
"""

import math
from functools import singledispatch

import numpy as np

from ..arrays import Array, Pullback, array_module, map_blocks, widen_float16

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
TANH = (SQRT_2_OVER_PI, SQRT_2_OVER_PI * 0.044715)
ERF_FLOAT32 = (
    0.797885308, 0.0363320649, -3.17414858e-5, -5.56039514e-5,
    4.01260156e-6, -1.35730506e-7, 1.84666397e-9,
)  # fmt: skip
NODES, WEIGHTS = (array / 2 for array in np.polynomial.legendre.leggauss(24))
GAUSS = list(zip((0.5 + NODES).tolist(), WEIGHTS.tolist(), strict=True))  # on [0, 1]


@singledispatch
@widen_float16
def gelu(x: Array, kind: str = "tanh") -> tuple[Array, Pullback]:
    """Gaussian error linear unit:  y = x Φ(x).

    x, any shape  ->  y, the same shape    (Hendrycks and Gimpel, 2016)
    `kind` is "tanh" (the approximation of the authors' code) or "erf" (exact; the error is below
    2e-7 max(1, |x|) in float32 and 4e-15 max(1, |x|) in float64). Raises ValueError otherwise.
    """
    if kind == "tanh":
        return gelu_tanh(x)
    if kind == "erf":
        return gelu_erf(x)
    raise ValueError(f"unknown GELU '{kind}': choose 'tanh' or 'erf'")


def gelu_tanh(x: Array) -> tuple[Array, Pullback]:
    """The tanh approximation of the authors' code."""
    xp = array_module(x)
    a, b = TANH

    def value(y: Array, x: Array) -> None:
        apply_tanh_form(x, TANH, y)

    def gradient(dx: Array, x: Array, dy: Array) -> None:
        # With t = tanh(u) and u = a x + b x³,  y' = ½ (1 + t + x (1 - t) (1 + t) u').
        t = dx  # `dx` serves as scratch memory until the last line
        slope = tanh_of_polynomial(x, TANH, t)  # x², from which u' = a + 3 b x² is computed
        slope *= 3 * b
        slope += a
        slope *= 1 - t  # multiply in this order: 1 - t is 0 where x³ overflows
        t += 1
        slope *= t
        slope *= x
        slope += t
        slope *= 0.5
        xp.multiply(slope, dy, out=dx)

    return map_blocks(value, x), lambda dy: map_blocks(gradient, x, dy)


def gelu_erf(x: Array) -> tuple[Array, Pullback]:
    """The exact form: a polynomial of seven coefficients in float32, an integral otherwise."""
    xp = array_module(x)

    def value(y: Array, x: Array) -> None:
        if x.dtype.itemsize <= 4:  # float32
            apply_tanh_form(x, ERF_FLOAT32, y)
        else:
            xp.multiply(x, 0.5 * (1 + erf(x / math.sqrt(2))), out=y)

    y = map_blocks(value, x)

    def gradient(dx: Array, x: Array, y: Array, dy: Array) -> None:
        # The derivative of Φ is the normal density, so y' = Φ + x exp(-x²/2) / √(2π).
        with np.errstate(invalid="ignore"):
            normal_cdf = xp.divide(y, x, out=dx)  # Φ = y / x
        normal_cdf[x == 0] = 0.5
        slope = x * x
        slope *= -0.5
        xp.exp(slope, out=slope)
        slope *= x
        slope *= 1 / math.sqrt(2 * math.pi)
        slope += normal_cdf
        xp.multiply(slope, dy, out=dx)

    return y, lambda dy: map_blocks(gradient, x, y, dy)


def apply_tanh_form(x: Array, p: tuple[float, ...], y: Array) -> None:
    """Write y = x · ½ (1 + tanh(x p(x²)))."""
    tanh_of_polynomial(x, p, y)
    y += 1
    y *= x
    y *= 0.5


def tanh_of_polynomial(x: Array, p: tuple[float, ...], t: Array) -> Array:
    """Write t = tanh(x p(x²)), with p evaluated by Horner's rule, and return x²."""
    xp = array_module(x)
    with np.errstate(over="ignore"):  # an infinite argument gives the correct limit, ±1
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
    """erf(z) = 2 z / √π ∫₀¹ exp(-z² t²) dt for real or complex z, by 24-point Gauss quadrature."""
    xp = array_module(z)
    z = xp.clip(z.real, -6, 6) + (z - z.real)  # erf(6) rounds to 1
    minus_square = -(z * z)
    integral = xp.zeros_like(z)
    for t, weight in GAUSS:
        integral += weight * xp.exp(minus_square * (t * t))
    return (2 / math.sqrt(math.pi)) * z * integral
