"""RMS norm: a layer norm without the mean.

    y = scale * x_hat,    x_hat = x / rms,    rms² = mean(x²) + ε

No mean is subtracted and there is no bias (Zhang and Sennrich, 2019). Many large language models
use RMS norm instead of layer norm. The pullback of layer norm removes two components from the
gradient. Which of them does the pullback of RMS norm remove?
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "If x is multiplied by 5, so is rms, and x_hat does not change. x_hat is invariant to the\n"
    "scale of x, so dx has no component along x (up to ε).",
    "With g = dy * scale, and means over the D entries of a token:\n"
    "    dx = (g - x_hat mean(g x_hat)) / rms\n"
    "All tokens share the scale, so its gradient is the sum of dy x_hat over the tokens.",
    "    rms = ((x * x).mean(-1, keepdims=True) + eps) ** 0.5\n"
    "    along = (g * x_hat).mean(-1, keepdims=True)\n"
    "    dscale = (dy * x_hat).reshape(-1, D).sum(0)",
)


def rms_norm(x: Array, scale: Array, eps: float = 1e-6) -> tuple[Array, Pullback]:
    """Divide each token by its root mean square, then scale it:  y = scale * x / rms.

    x (..., D), scale (D,)  ->  y (..., D). The pullback returns (dx, {"scale": dscale}).
    """
    D = x.shape[-1]
    rms = ((x * x).mean(-1, keepdims=True) + eps) ** 0.5  # (..., 1)
    x_hat = x / rms

    def pullback(dy):
        g = dy * scale
        along = (g * x_hat).mean(-1, keepdims=True)  # (..., 1)
        dscale = (dy * x_hat).reshape(-1, D).sum(0)
        return (g - x_hat * along) / rms, {"scale": dscale}

    return scale * x_hat, pullback


def expected(x: Array, scale: Array, eps: float = 1e-6) -> Array:
    """Compute the value token by token."""
    y = np.empty(x.shape)
    for token in np.ndindex(x.shape[:-1]):
        square = sum(number * number for number in x[token]) / len(x[token])
        for d, number in enumerate(x[token]):
            y[(*token, d)] = scale[d] * number / math.sqrt(square + eps)
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading. In the last set, eps affects the result."""
    sets = [((2, 3, 5),), ((4, 3),), ((1, 4), 0.5)]
    return [(rng.normal(size=shape), rng.normal(size=shape[-1]), *eps) for shape, *eps in sets]
