"""Low-rank linear layer: two narrow matrices instead of one large matrix.

    y = x down up,    down (D, r), up (r, E)

This layer has r (D + E) parameters instead of D E, far fewer if r is much smaller than D and E.
Large models are fine-tuned cheaply by adding such a product to a frozen kernel (LoRA, Hu et al.,
2021).
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "These are two linear layers in sequence. Name the intermediate result, h = x down, and\n"
    "backpropagate in reverse order: first through up, then through down.",
    "For one layer, y = h up, the gradients are dh = dy upᵀ and dup = hᵀ dy, summed over all\n"
    "tokens. The layer with down works in the same way, with dh in the role of dy.",
    "To sum over all tokens, for any number of leading axes, reshape the arrays to rows first:\n"
    "    rows, dh_rows = x.reshape(-1, D), dh.reshape(-1, r)\n"
    '    dparams = {"down": rows.T @ dh_rows, "up": h.reshape(-1, r).T @ dy.reshape(-1, E)}',
)


def low_rank_linear(x: Array, down: Array, up: Array) -> tuple[Array, Pullback]:
    """Project each token to r dimensions and then to E dimensions:  y = x down up.

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
    """Compute the expected output one entry at a time."""
    y = np.zeros((*x.shape[:-1], up.shape[1]))
    for token in np.ndindex(x.shape[:-1]):
        for d, r, e in np.ndindex(*down.shape, up.shape[1]):
            y[(*token, e)] += x[(*token, d)] * down[d, r] * up[r, e]
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading. If D = r = E, a missing transpose changes only values."""
    sizes = [((2, 3), 5, 2, 4), ((4,), 3, 3, 3), ((2, 1, 3), 4, 1, 5)]
    return [
        (rng.normal(size=(*tokens, D)), rng.normal(size=(D, r)), rng.normal(size=(r, E)))
        for tokens, D, r, E in sizes
    ]
