"""Dense general: all heads' queries at once, by the authors' kernel as it lies in their file.

    y[..., h, :] = x @ kernel[:, h, :] + bias[h]    for each head h

Their files have a kernel (D, k, Dh) and a bias (k, Dh) for the queries, and others for the keys
and the values. Their library calls such a layer DenseGeneral. It needs no loop over the heads, and
no second copy of the kernel.
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Seen as (D, k Dh), which is a reshape and no copy, the kernel is that of chapter 2's linear\n"
    "layer. What is left is to give the result, and later the gradients, their axes again.",
    "Going back, dy (B, T, k, Dh) becomes rows, dy.reshape(-1, k * Dh). Every token of every\n"
    "image used the same kernel and bias, so their gradients are sums over all rows.",
    "With flat = kernel.reshape(D, k * Dh) and rows = dy.reshape(-1, k * Dh):\n"
    "    dx = (rows @ flat.T).reshape(x.shape)\n"
    "    dkernel = (x.reshape(-1, D).T @ rows).reshape(kernel.shape)\n"
    "    dbias = rows.sum(0).reshape(bias.shape)",
)


def dense_general(x: Array, kernel: Array, bias: Array) -> tuple[Array, Pullback]:
    """One linear layer into k heads of Dh numbers each.

    x (B, T, D), kernel (D, k, Dh), bias (k, Dh)  ->  y (B, T, k, Dh)
    The pullback returns (dx, {"kernel": dkernel, "bias": dbias}), in the shapes of the arguments.
    """
    D, k, Dh = kernel.shape
    flat = kernel.reshape(D, k * Dh)
    tokens = x.reshape(-1, D)  # (B T, D)
    y = (tokens @ flat).reshape(*x.shape[:-1], k, Dh) + bias

    def pullback(dy):
        rows = dy.reshape(-1, k * Dh)  # (B T, k Dh)
        dkernel = (tokens.T @ rows).reshape(kernel.shape)
        dbias = rows.sum(0).reshape(bias.shape)
        return (rows @ flat.T).reshape(x.shape), {"kernel": dkernel, "bias": dbias}

    return y, pullback


def expected(x: Array, kernel: Array, bias: Array) -> Array:
    """The value, number by number."""
    D, k, Dh = kernel.shape
    y = np.zeros((*x.shape[:-1], k, Dh))
    for b, t, h, i in np.ndindex(y.shape):
        y[b, t, h, i] = sum(x[b, t, d] * kernel[d, h, i] for d in range(D)) + bias[h, i]
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on."""
    sizes = [((2, 5, 4), 3, 2), ((1, 4, 3), 2, 5)]  # (B, T, D), k, Dh: T is not k
    return [
        (rng.normal(size=shape), rng.normal(size=(shape[-1], k, Dh)), rng.normal(size=(k, Dh)))
        for shape, k, Dh in sizes
    ]
