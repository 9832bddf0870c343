"""RMS norm: a layer norm that forgets the length of a token and nothing else.

    x_hat = x / rms,    rms² = mean(x²) + ε,    y = scale * x_hat

No mean is subtracted and there is no bias (Zhang and Sennrich, 2019); many large language models
have it in place of layer norm. Layer norm's pullback takes out two directions. Which one is left?
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Multiply x by 5: rms follows, and x_hat stays. So x_hat forgets the direction along x, and\n"
    "only that one. The gradient may have no part along it.",
    "With g = dy * scale, and all means over a token's D numbers:\n"
    "    dx = (g - x_hat mean(g x_hat)) / rms\n"
    "The gradient of the scale, which serves all tokens, is the sum of dy x_hat over them.",
    "    rms = ((x * x).mean(-1, keepdims=True) + eps) ** 0.5\n"
    "    along = (g * x_hat).mean(-1, keepdims=True)\n"
    "    dscale = (dy * x_hat).reshape(-1, D).sum(0)",
)


def rms_norm(x: Array, scale: Array, eps: float = 1e-6) -> tuple[Array, Pullback]:
    """Each token with a root mean square of one, then rescaled:  y = scale * x / rms.

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
    """The value, token by token."""
    y = np.empty(x.shape)
    for token in np.ndindex(x.shape[:-1]):
        square = sum(number * number for number in x[token]) / len(x[token])
        for d, number in enumerate(x[token]):
            y[(*token, d)] = scale[d] * number / math.sqrt(square + eps)
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on; in the last, eps counts."""
    sets = [((2, 3, 5),), ((4, 3),), ((1, 4), 0.5)]
    return [(rng.normal(size=shape), rng.normal(size=shape[-1]), *eps) for shape, *eps in sets]
