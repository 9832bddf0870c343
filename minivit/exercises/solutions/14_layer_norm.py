"""Layer norm, handed over with a mistake: find it and mend it.

    y = scale * x_hat + bias,    x_hat = (x - mean(x)) / σ,    σ² = mean((x - mean(x))²) + ε

With the parameters that a model begins with, scale 1 and bias 0, its gradients are right to the
last digit; after the first step they are wrong. Have it graded before you read the code: what does
it tell that x has a wrong gradient, and scale and bias a right one?
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "The value is right, and so are the gradients of scale and bias: the mistake is in dx. With\n"
    "scale = 1 it cannot be seen, and that is how a model begins.",
    "y = scale * x_hat + bias. So what comes back to x_hat is g = dy * scale, and everything that\n"
    "is done to dx is done to g. Chapter 4 takes two parts out of g; look at each.",
    "The part along x_hat has the length mean(g x_hat). One of dy and g stands where the other\n"
    "should.",
)


def layer_norm(x: Array, scale: Array, bias: Array, eps: float = 1e-6) -> tuple[Array, Pullback]:
    """Each token at zero mean and unit variance, then rescaled:  y = scale * x_hat + bias.

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


def handed_over(x: Array, scale: Array, bias: Array, eps: float = 1e-6) -> tuple[Array, Pullback]:
    """Layer norm with a mistake."""
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
    """The value, token by token."""
    y = np.empty(x.shape)
    for token in np.ndindex(x.shape[:-1]):
        D = len(x[token])
        mean = sum(x[token]) / D
        variance = sum((number - mean) ** 2 for number in x[token]) / D
        y[token] = scale * (x[token] - mean) / (variance + eps) ** 0.5 + bias
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on."""
    shapes = [(2, 3, 5), (4, 3)]
    return [(rng.normal(size=shape), *rng.normal(size=(2, shape[-1]))) for shape in shapes]
