"""Attention in blocks: all of Equations 6 and 7, of which A never exists as a whole.

    total ← total · e^(old - new) + Σ_j e^(s_j - new)
    mixed ← mixed · e^(old - new) + Σ_j e^(s_j - new) v_j

The keys come a block at a time. Softmax needs the largest score of a row, so it is kept as far as
it is known; if a block has a larger one, what was summed up before shrinks by e^(old - new). At
the end y = mixed / total. On the way back each block of A is made once more. Memory then grows
with T and not with T² (Rabe and Staats, 2021; FlashAttention, Dao et al., 2022).
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Go over the keys and values in slices of `block`, the last of which may be shorter, with\n"
    "three things in hand: the largest score so far, `total` and `mixed`. Begin with -inf, 0, 0.",
    "For the way back keep y and log_total = largest + log(total): a block of A is then\n"
    "exp(scores - log_total). Softmax's pullback, A * (dA - row sums of A * dA), asks for sums\n"
    "over whole rows. These can be read off the value: they are the row sums of dy * y. Why?",
    "    new = np.maximum(largest, scores.real.max(-1, keepdims=True))\n"
    "    mixed = mixed * np.exp(largest - new) + np.exp(scores - new) @ values\n"
    "and back, with A and dA of a block and `along` the row sums of dy * y:\n"
    "    dscores = A * (dA - along)\n"
    "dq is a sum over the blocks; dk and dv are put together from them.",
)


def weighted_mean(q: Array, k: Array, v: Array, block: int) -> tuple[Array, Array]:
    """The mean of v by softmax(q kᵀ), and the logarithm of each row's sum of exponentials."""
    largest, total, mixed = -np.inf, 0, 0
    for start in range(0, k.shape[-2], block):
        keys, values = k[..., start : start + block, :], v[..., start : start + block, :]
        scores = q @ keys.swapaxes(-1, -2)  # (..., T, block)
        new = np.maximum(largest, scores.real.max(-1, keepdims=True))
        shrink, exps = np.exp(largest - new), np.exp(scores - new)
        total = total * shrink + exps.sum(-1, keepdims=True)  # (..., T, 1)
        mixed = mixed * shrink + exps @ values  # (..., T, Dh)
        largest = new
    return mixed / total, largest + np.log(total)


def attention_in_blocks(q: Array, k: Array, v: Array, block: int) -> tuple[Array, Pullback]:
    """A v with A = softmax(q kᵀ / √Dh), of which no more than `block` columns exist at a time.

    q (..., T, Dh), k and v (..., S, Dh)  ->  (..., T, Dh)
    The pullback returns (dq, dk, dv).
    """
    root = math.sqrt(q.shape[-1])
    y, log_total = weighted_mean(q / root, k, v, block)

    def pullback(dy):
        along = (dy * y).sum(-1, keepdims=True)  # Σ_j A_j dA_j, as dA_j = dy · v_j
        dq, dk, dv = 0, [], []
        for start in range(0, k.shape[-2], block):
            keys, values = k[..., start : start + block, :], v[..., start : start + block, :]
            A = np.exp(q @ keys.swapaxes(-1, -2) / root - log_total)  # (..., T, block)
            dscores = A * (dy @ values.swapaxes(-1, -2) - along)
            dq = dq + dscores @ keys / root
            dk.append(dscores.swapaxes(-1, -2) @ q / root)
            dv.append(A.swapaxes(-1, -2) @ dy)
        return dq, np.concatenate(dk, -2), np.concatenate(dv, -2)

    return y, pullback


def expected(q: Array, k: Array, v: Array, block: int) -> Array:
    """The value, token by token; in what blocks makes no difference."""
    y = np.zeros(q.shape)
    for i in np.ndindex(q.shape[:-1]):
        keys, values = k[i[:-1]], v[i[:-1]]
        scores = [sum(q[i] * key) / math.sqrt(q.shape[-1]) for key in keys]
        weights = [math.exp(score - max(scores)) for score in scores]
        for weight, value in zip(weights, values, strict=True):
            y[i] += weight / sum(weights) * value
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on: blocks that fit or not, one for all, and scores too large for exp."""
    sets = [
        ((2, 3, 4), (2, 5, 4), 1, 2),
        ((2, 2, 3, 2), (2, 2, 4, 2), 1, 2),
        ((4, 3), (3, 3), 1, 9),
        ((3, 4), (4, 4), 1000, 1),
    ]
    draw = rng.normal
    return [(size * draw(size=q), draw(size=k), draw(size=k), block) for q, k, size, block in sets]
