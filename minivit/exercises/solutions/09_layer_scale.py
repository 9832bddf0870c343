"""Layer scale: how much of a branch joins the residual stream, learned channel by channel.

    y = z + gain * branch

The gains begin near zero, so that at first a deep model is almost the identity, and each branch
is let in as it proves useful; very deep vision transformers train with it (Touvron et al., 2021).
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Three inputs, three gradients. y is a sum: what happens to dy on its way to z? And on its\n"
    "way to branch, which was multiplied by the gain?",
    "dz is dy. dbranch is dy times the gain. The gain is shared by all tokens, so its gradient is\n"
    "a sum over all of them.",
    "The gradient of the gain: (dy * branch).reshape(-1, D).sum(0).",
)


def layer_scale(z: Array, branch: Array, gain: Array) -> tuple[Array, Pullback]:
    """The residual connection with a gain for each channel:  y = z + gain * branch.

    z (..., D), branch (..., D), gain (D,)  ->  y (..., D)
    The pullback returns (dz, dbranch, {"gain": dgain}): two inputs, then the parameters.
    """

    def pullback(dy):
        dgain = (dy * branch).reshape(-1, len(gain)).sum(0)
        return dy, dy * gain, {"gain": dgain}

    return z + gain * branch, pullback


def expected(z: Array, branch: Array, gain: Array) -> Array:
    """The value, entry by entry."""
    y = np.empty(z.shape)
    for *token, d in np.ndindex(z.shape):
        i = (*token, d)
        y[i] = z[i] + gain[d] * branch[i]
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on; in the second a gain for each token would have the same shape."""
    return [
        (*rng.normal(size=(2, *shape)), rng.normal(size=shape[-1]))
        for shape in [(2, 4, 3), (3, 3), (1, 2, 2, 4)]
    ]
