"""Debug layer norm: find and correct the mistake in its pullback.

    y = scale * x_hat + bias,    x_hat = (x - mean(x)) / σ,    σ² = mean((x - mean(x))²) + ε

With the initial parameters, scale 1 and bias 0, the gradients are exact. After the first training
step they are wrong. Grade the file before you read the code. The gradient of x is wrong, and those
of scale and bias are correct. What does this tell you?
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "The value and the gradients of scale and bias are correct, so the mistake is in dx. It has\n"
    "no effect for scale = 1, the initial value.",
    "y = scale * x_hat + bias, so the gradient of x_hat is g = dy * scale, and dx depends on dy\n"
    "only through g. The pullback removes two components from g (chapter 4). Check each of them.",
    "The component along x_hat is mean(g x_hat). One of dy and g is used in place of the other.",
)


def layer_norm(x: Array, scale: Array, bias: Array, eps: float = 1e-6) -> tuple[Array, Pullback]:
    """Give each token zero mean and unit variance, then scale and shift it.

    x (..., D), scale (D,), bias (D,)  ->  y (..., D)
    The pullback returns (dx, {"scale": dscale, "bias": dbias}).
    """
    D = x.shape[-1]
    centred = x - x.mean(-1, keepdims=True)
    sigma = ((centred * centred).mean(-1, keepdims=True) + eps) ** 0.5
    x_hat = centred / sigma

    def pullback(dy):
        g = dy * scale
        along = (g * x_hat).mean(-1, keepdims=True)
        dx = (g - g.mean(-1, keepdims=True) - x_hat * along) / sigma
        dscale, dbias = (dy * x_hat).reshape(-1, D).sum(0), dy.reshape(-1, D).sum(0)
        return dx, {"scale": dscale, "bias": dbias}

    return scale * x_hat + bias, pullback


def incorrect(x: Array, scale: Array, bias: Array, eps: float = 1e-6) -> tuple[Array, Pullback]:
    """Compute layer norm with an incorrect gradient."""
    D = x.shape[-1]
    centred = x - x.mean(-1, keepdims=True)
    sigma = ((centred * centred).mean(-1, keepdims=True) + eps) ** 0.5
    x_hat = centred / sigma

    def pullback(dy):
        g = dy * scale
        along = (dy * x_hat).mean(-1, keepdims=True)
        dx = (g - g.mean(-1, keepdims=True) - x_hat * along) / sigma
        dscale, dbias = (dy * x_hat).reshape(-1, D).sum(0), dy.reshape(-1, D).sum(0)
        return dx, {"scale": dscale, "bias": dbias}

    return scale * x_hat + bias, pullback


def expected(x: Array, scale: Array, bias: Array, eps: float = 1e-6) -> Array:
    """Compute the value token by token."""
    y = np.empty(x.shape)
    for token in np.ndindex(x.shape[:-1]):
        D = len(x[token])
        mean = sum(x[token]) / D
        variance = sum((number - mean) ** 2 for number in x[token]) / D
        y[token] = scale * (x[token] - mean) / (variance + eps) ** 0.5 + bias
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading."""
    shapes = [(2, 3, 5), (4, 3)]
    return [(rng.normal(size=shape), *rng.normal(size=(2, shape[-1]))) for shape in shapes]
