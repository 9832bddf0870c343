"""Attention entropy: how many tokens a head looks at, as one number.

    H = mean over the queries i of  -Σ_j A_ij log A_ij

It is 0 for a head in which each query looks at a single token, and log T for one that looks at
all alike: exp(H) is, so to speak, the number of tokens looked at. Training has been seen to fail
where it falls to 0 (Zhai et al., 2023); with its pullback it can be made part of a loss.
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Take one query. The slope of -a log a has two terms, by the product rule. Every entry of A\n"
    "stands for itself here: no need to think of the rows' sums.",
    "The slope of -a log a is -(log a + 1), and the mean over T queries divides by T.",
    "dH has one number for each head, shape (...). Give it two axes of length 1 and let it\n"
    "broadcast:  -(np.log(A) + 1) * dH[..., None, None] / T",
)


def attention_entropy(A: Array) -> tuple[Array, Pullback]:
    """The entropy of each head's attention, in nats, the mean over its queries.

    A (..., T, T), all entries above zero  ->  H (...). The pullback returns dA.
    """
    T = A.shape[-1]
    logs = np.log(A)  # (..., T, T)

    def pullback(dH):
        return -(logs + 1) * dH[..., None, None] / T

    return -(A * logs).sum(-1).mean(-1), pullback


def expected(A: Array) -> Array:
    """The value, head by head."""
    T = A.shape[-1]
    H = np.zeros(A.shape[:-2])
    for head in np.ndindex(A.shape[:-2]):
        for i, j in np.ndindex(T, T):
            a = A[(*head, i, j)]
            H[head] -= a * math.log(a) / T
    return H


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on."""
    sizes = [((2, 3), 4), ((2,), 3)]
    return [(rng.dirichlet(np.full(T, 5), size=(*heads, T)),) for heads, T in sizes]
