"""A linear layer of low rank: two thin matrices in place of a large one.

    y = x down up,    down (D, r), up (r, E)

With r far below D and E this has r (D + E) numbers to learn where a kernel has D E. The same pair,
added to a kernel that stays as it is, is how large models are adapted cheaply (LoRA, Hu et al.,
2021). Going back, each matrix needs what stood on the other side of it.
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "These are two linear layers, one after the other. Give what is between them a name,\n"
    "h = x down, and go back in the reverse order: first through up, then through down.",
    "One layer: if y = h up, then dh = dy upᵀ, and the gradient of up is hᵀ dy, summed over all\n"
    "tokens. With dh in hand, down is the same once more.",
    "To sum over all tokens, however many axes they have, make rows of them first:\n"
    "    rows, dh_rows = x.reshape(-1, D), dh.reshape(-1, r)\n"
    '    dparams = {"down": rows.T @ dh_rows, "up": h.reshape(-1, r).T @ dy.reshape(-1, E)}',
)


def low_rank_linear(x: Array, down: Array, up: Array) -> tuple[Array, Pullback]:
    """Each token down to r numbers, and up again:  y = x down up.

    x (..., D), down (D, r), up (r, E)  ->  y (..., E)
    The pullback returns (dx, {"down": ddown, "up": dup}).
    """
    D, r = down.shape
    h = x @ down  # (..., r)

    def pullback(dy):
        dh = dy @ up.T  # (..., r)
        ddown = x.reshape(-1, D).T @ dh.reshape(-1, r)
        dup = h.reshape(-1, r).T @ dy.reshape(-1, up.shape[1])
        return dh @ down.T, {"down": ddown, "up": dup}

    return h @ up, pullback


def expected(x: Array, down: Array, up: Array) -> Array:
    """The value, number by number."""
    y = np.zeros((*x.shape[:-1], up.shape[1]))
    for token in np.ndindex(x.shape[:-1]):
        for d, r, e in np.ndindex(*down.shape, up.shape[1]):
            y[(*token, e)] += x[(*token, d)] * down[d, r] * up[r, e]
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on; the square one takes a transposed matrix without complaint."""
    sizes = [((2, 3), 5, 2, 4), ((4,), 3, 3, 3), ((2, 1, 3), 4, 1, 5)]
    return [
        (rng.normal(size=(*tokens, D)), rng.normal(size=(D, r)), rng.normal(size=(r, E)))
        for tokens, D, r, E in sizes
    ]
