"""Attention entropy: how evenly a head distributes its attention.

    H = mean over the queries i of  -Σ_j A_ij log A_ij

H is 0 if each query attends to a single token, and log T if it attends to all tokens equally.
exp(H) is the effective number of tokens that a query attends to. Training can become unstable if
the entropy falls to 0 (Zhai et al., 2023). With its pullback, the entropy can be part of a loss.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Consider one query. By the product rule, the derivative of -a log a has two terms. Treat\n"
    "the entries of A as independent variables, although its rows sum to one.",
    "The derivative of -a log a is -(log a + 1). The mean over T queries divides it by T.",
    "dH has one entry per head, shape (...). Add two axes of length 1 for broadcasting:\n"
    "    -(np.log(A) + 1) * dH[..., None, None] / T",
)


def attention_entropy(A: Array) -> tuple[Array, Pullback]:
    """Compute the entropy of each head's attention in nats, averaged over its queries.

    A (..., T, T), all entries positive  ->  H (...). The pullback returns dA.
    """
    T = A.shape[-1]
    logs = np.log(A)  # (..., T, T)

    def pullback(dH):
        return -(logs + 1) * dH[..., None, None] / T

    return -(A * logs).sum(-1).mean(-1), pullback


def expected(A: Array) -> Array:
    """Compute the value head by head."""
    T = A.shape[-1]
    H = np.zeros(A.shape[:-2])
    for head in np.ndindex(A.shape[:-2]):
        for i, j in np.ndindex(T, T):
            a = A[(*head, i, j)]
            H[head] -= a * math.log(a) / T
    return H


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return the inputs for grading."""
    sizes = [((2, 3), 4), ((2,), 3)]
    return [(rng.dirichlet(np.full(T, 5), size=(*heads, T)),) for heads, T in sizes]
