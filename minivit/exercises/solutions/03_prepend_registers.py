"""Register tokens: several learned tokens before the patches.

    z = [r_1; r_2; ...; r_R; x_1; ...; x_N]

The class token of Equation 1 is one such token. Large Vision Transformers that have only the class
token store global information in patches of uniform background, which causes artefacts in their
attention maps. A few register tokens remove these artefacts (Darcet et al., 2024).
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "The forward pass copies the registers to every image. In the backward pass, the gradient of\n"
    "the first R tokens belongs to the registers, and the rest belongs to x.",
    "All images share one set of registers. The gradient of a shared parameter is the sum over\n"
    "its uses, here over the batch axis.",
    "    front = np.broadcast_to(registers, (B, R, D))\n"
    "    z = np.concatenate([front, x], axis=1)\n"
    "The gradients are dz[:, R:] for x and dz[:, :R].sum(0) for the registers.",
)


def prepend_registers(x: Array, registers: Array) -> tuple[Array, Pullback]:
    """Prepend the R learned registers to the patches of every image.

    x (B, N, D), registers (R, D)  ->  z (B, R + N, D)
    The pullback returns (dx, {"registers": dregisters}).
    """
    R, D = registers.shape
    front = np.broadcast_to(registers, (len(x), R, D))

    def pullback(dz):
        return dz[:, R:], {"registers": dz[:, :R].sum(0)}

    return np.concatenate([front, x], axis=1), pullback


def expected(x: Array, registers: Array) -> Array:
    """Compute the value token by token."""
    B, N, D = x.shape
    R = len(registers)
    z = np.empty((B, R + N, D))
    for b, t in np.ndindex(B, R + N):
        z[b, t] = registers[t] if t < R else x[b, t - R]
    return z


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading."""
    sizes = [(3, 4, 5, 2), (1, 2, 3, 1), (2, 3, 3, 3)]
    return [(rng.normal(size=(B, N, D)), rng.normal(size=(R, D))) for B, N, D, R in sizes]
