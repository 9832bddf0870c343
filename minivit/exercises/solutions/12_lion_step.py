"""Lion: an optimiser that uses only the sign of its update.

    update   = sign(β1 m + (1 - β1) g)
    params   ← params - learning_rate (update + weight_decay · params)
    m        ← β2 m + (1 - β2) g

It was found by an automated search over programs (Chen et al., 2023). It stores one momentum array,
whereas AdamW stores two moments. Apart from weight decay, every parameter changes by the same
amount, the learning rate.
"""

import numpy as np

from minivit.arrays import Array

HINTS = (
    "The update is the sign of a weighted sum, with β1, of the old momentum and the gradient. The\n"
    "momentum is updated afterwards, with β2.",
    "Weight decay is added outside the sign, as in AdamW: the learning rate multiplies the sum of\n"
    "the update and weight_decay times the parameters.",
    "np.sign(0) is 0. Return two new arrays: `params - ...`, not `params -= ...`.",
)


def lion_step(
    params: Array,
    momentum: Array,
    gradient: Array,
    learning_rate: float,
    weight_decay: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.99,
) -> tuple[Array, Array]:
    """Compute the parameters and the momentum after one step of Lion, in new arrays.

    params, momentum and gradient of the same shape  ->  (params, momentum)
    """
    update = np.sign(beta1 * momentum + (1 - beta1) * gradient)
    new_params = params - learning_rate * (update + weight_decay * params)
    return new_params, beta2 * momentum + (1 - beta2) * gradient


def expected(
    params: Array,
    momentum: Array,
    gradient: Array,
    learning_rate: float,
    weight_decay: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.99,
) -> tuple[Array, Array]:
    """Compute the step parameter by parameter."""
    new_params, new_momentum = np.empty(params.shape), np.empty(params.shape)
    for i in np.ndindex(params.shape):
        direction = beta1 * momentum[i] + (1 - beta1) * gradient[i]
        update = 1 if direction > 0 else -1 if direction < 0 else 0
        new_params[i] = params[i] - learning_rate * (update + weight_decay * params[i])
        new_momentum[i] = beta2 * momentum[i] + (1 - beta2) * gradient[i]
    return new_params, new_momentum


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading. In the last set, only the weight decay has an effect."""
    sets = [(*rng.normal(size=(3, 4, 5)), 0.03), (*rng.normal(size=(3, 7)), 0.1, 0.3, 0.5, 0.8)]
    return [*sets, (rng.normal(size=(3, 2)), np.zeros((3, 2)), np.zeros((3, 2)), 0.1)]
