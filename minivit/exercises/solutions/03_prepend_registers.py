"""Registers: several learned tokens before the patches.

    z = [r_1; r_2; ...; r_R; x_1; ...; x_N]

The class token of Equation 1 is one such token. Large vision transformers, given only that one,
have been seen to use patches of even background as notepads, which spoils their attention maps;
a few more learned tokens take that over (Darcet et al., 2024).
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Going forth, the registers are copied to the front of every image. Going back, the gradient\n"
    "of the first R tokens belongs to the registers, that of the others to x.",
    "One set of registers serves the whole batch. What serves several times gets the sum of its\n"
    "gradients: here over the first axis.",
    "    front = np.broadcast_to(registers, (B, R, D))\n"
    "    z = np.concatenate([front, x], axis=1)\n"
    "and back: dz[:, R:] for x, dz[:, :R].sum(0) for the registers.",
)


def prepend_registers(x: Array, registers: Array) -> tuple[Array, Pullback]:
    """Put the R learned registers before the patches of every image.

    x (B, N, D), registers (R, D)  ->  z (B, R + N, D)
    The pullback returns (dx, {"registers": dregisters}).
    """
    R, D = registers.shape
    front = np.broadcast_to(registers, (len(x), R, D))

    def pullback(dz):
        return dz[:, R:], {"registers": dz[:, :R].sum(0)}

    return np.concatenate([front, x], axis=1), pullback


def expected(x: Array, registers: Array) -> Array:
    """The value, token by token."""
    B, N, D = x.shape
    R = len(registers)
    z = np.empty((B, R + N, D))
    for b, t in np.ndindex(B, R + N):
        z[b, t] = registers[t] if t < R else x[b, t - R]
    return z


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on."""
    sizes = [(3, 4, 5, 2), (1, 2, 3, 1), (2, 3, 3, 3)]
    return [(rng.normal(size=(B, N, D)), rng.normal(size=(R, D))) for B, N, D, R in sizes]
