"""Dense general: a projection into several heads, with the authors' kernel layout.

    y[..., i, :] = x @ kernel[:, i, :] + bias[i]    for each head i

The authors' files store the queries' kernel as (D, h, Dh) and their bias as (h, Dh), and likewise
for keys and values. Their library calls such a layer DenseGeneral. It needs no loop over the heads
and no copy of the kernel.
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Reshaped to (D, h Dh), which makes no copy, the kernel is that of the linear layer of\n"
    "chapter 2. It remains to reshape the result and the gradients.",
    "In the backward pass, reshape dy (B, T, h, Dh) to rows, dy.reshape(-1, h * Dh). All tokens\n"
    "of all images share the kernel and the bias, so their gradients are sums over all rows.",
    "With flat = kernel.reshape(D, h * Dh) and rows = dy.reshape(-1, h * Dh):\n"
    "    dx = (rows @ flat.T).reshape(x.shape)\n"
    "    dkernel = (x.reshape(-1, D).T @ rows).reshape(kernel.shape)\n"
    "    dbias = rows.sum(0).reshape(bias.shape)",
)


def dense_general(x: Array, kernel: Array, bias: Array) -> tuple[Array, Pullback]:
    """Project each token into h heads of Dh dimensions.

    x (B, T, D), kernel (D, h, Dh), bias (h, Dh)  ->  y (B, T, h, Dh)
    The pullback returns (dx, {"kernel": dkernel, "bias": dbias}), with the arguments' shapes.
    """
    D, h, Dh = kernel.shape
    flat = kernel.reshape(D, h * Dh)
    tokens = x.reshape(-1, D)  # (B T, D)
    y = (tokens @ flat).reshape(*x.shape[:-1], h, Dh) + bias

    def pullback(dy):
        rows = dy.reshape(-1, h * Dh)  # (B T, h Dh)
        dkernel = (tokens.T @ rows).reshape(kernel.shape)
        dbias = rows.sum(0).reshape(bias.shape)
        return (rows @ flat.T).reshape(x.shape), {"kernel": dkernel, "bias": dbias}

    return y, pullback


def expected(x: Array, kernel: Array, bias: Array) -> Array:
    """Compute the expected output one entry at a time."""
    D, h, Dh = kernel.shape
    y = np.zeros((*x.shape[:-1], h, Dh))
    for b, t, i, j in np.ndindex(y.shape):
        y[b, t, i, j] = sum(x[b, t, d] * kernel[d, i, j] for d in range(D)) + bias[i, j]
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading."""
    sizes = [((2, 5, 4), 3, 2), ((1, 4, 3), 2, 5)]  # (B, T, D), h, Dh with T != h
    return [
        (rng.normal(size=shape), rng.normal(size=(shape[-1], h, Dh)), rng.normal(size=(h, Dh)))
        for shape, h, Dh in sizes
    ]
