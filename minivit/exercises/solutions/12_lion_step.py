"""Lion: an optimiser that takes from the gradient its sign and nothing else.

    update   = sign(β1 m + (1 - β1) g)
    params   ← params - rate (update + decay · params)
    m        ← β2 m + (1 - β2) g

A search over programs found it (Chen et al., 2023). It keeps one momentum where AdamW keeps two
numbers for each parameter, and every parameter moves by the same step, the rate, up or down.
"""

import numpy as np

from minivit.arrays import Array

HINTS = (
    "The momentum is used before it is renewed: the update mixes the old momentum with the new\n"
    "gradient by β1, and only then the momentum is renewed, with β2.",
    "Decay acts on the parameters, not through the sign: as in AdamW, the rate multiplies the sum\n"
    "of the update and of decay times the parameters.",
    "np.sign is the sign, and 0 of 0. Return two new arrays: `params - ...`, not `params -= ...`.",
)


def lion_step(
    params: Array,
    momentum: Array,
    gradient: Array,
    rate: float,
    decay: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.99,
) -> tuple[Array, Array]:
    """One step of Lion: the new parameters and the new momentum. It writes into no array.

    params, momentum and gradient, all of one shape  ->  (params, momentum)
    """
    update = np.sign(beta1 * momentum + (1 - beta1) * gradient)
    moved = params - rate * (update + decay * params)
    return moved, beta2 * momentum + (1 - beta2) * gradient


def expected(
    params: Array,
    momentum: Array,
    gradient: Array,
    rate: float,
    decay: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.99,
) -> tuple[Array, Array]:
    """The step, parameter by parameter."""
    moved, renewed = np.empty(params.shape), np.empty(params.shape)
    for i in np.ndindex(params.shape):
        mixed = beta1 * momentum[i] + (1 - beta1) * gradient[i]
        update = 1 if mixed > 0 else -1 if mixed < 0 else 0
        moved[i] = params[i] - rate * update - rate * decay * params[i]
        renewed[i] = beta2 * momentum[i] + (1 - beta2) * gradient[i]
    return moved, renewed


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on; in the last one nothing pulls, and only decay acts."""
    sets = [(*rng.normal(size=(3, 4, 5)), 0.03), (*rng.normal(size=(3, 7)), 0.1, 0.3, 0.5, 0.8)]
    return [*sets, (rng.normal(size=(3, 2)), np.zeros((3, 2)), np.zeros((3, 2)), 0.1)]
