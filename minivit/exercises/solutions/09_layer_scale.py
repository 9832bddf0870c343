"""Layer scale: a learned gain for each channel of a residual branch.

    y = z + gain * branch

The gains are initialised near zero, so each residual block starts close to the identity, and its
branch contributes more as the gains grow. This stabilises the training of very deep Vision
Transformers (Touvron et al., 2021).
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "There are three inputs and three gradients. y is a sum. Which gradient does z receive? The\n"
    "branch is multiplied by the gain. Which gradient does the branch receive?",
    "dz is dy. dbranch is dy times the gain. All tokens share the gain, so its gradient is a sum\n"
    "over all tokens.",
    "The gradient of the gain is (dy * branch).reshape(-1, D).sum(0).",
)


def layer_scale(z: Array, branch: Array, gain: Array) -> tuple[Array, Pullback]:
    """Add a residual branch with a gain for each channel:  y = z + gain * branch.

    z (..., D), branch (..., D), gain (D,)  ->  y (..., D)
    The pullback returns (dz, dbranch, {"gain": dgain}): two inputs, then the parameters.
    """

    def pullback(dy):
        dgain = (dy * branch).reshape(-1, len(gain)).sum(0)
        return dy, dy * gain, {"gain": dgain}

    return z + gain * branch, pullback


def expected(z: Array, branch: Array, gain: Array) -> Array:
    """Compute the expected output one entry at a time."""
    y = np.empty(z.shape)
    for *token, d in np.ndindex(z.shape):
        i = (*token, d)
        y[i] = z[i] + gain[d] * branch[i]
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs. In the second set T = D, so a gain per token would broadcast."""
    return [
        (*rng.normal(size=(2, *shape)), rng.normal(size=shape[-1]))
        for shape in [(2, 4, 3), (3, 3), (1, 2, 2, 4)]
    ]
