"""Blockwise attention: Equations 6 and 7 without storing the matrix A.

    total ← total · e^(old - new) + Σ_j e^(s_j - new)
    weighted_sum ← weighted_sum · e^(old - new) + Σ_j e^(s_j - new) v_j

The keys are processed in blocks. Softmax subtracts the maximum of a row, which is not known until
the last block, so the running maximum is used. If a block increases it from `old` to `new`, the
previous sums are multiplied by e^(old - new). At the end, y = weighted_sum / total. This is called
online softmax. The backward pass recomputes each block of A. Memory then grows linearly with T, not
quadratically (Rabe and Staats, 2021; FlashAttention, Dao et al., 2022).
"""

import math

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Loop over the keys and values in slices of `block`; the last slice may be shorter. Update\n"
    "three variables: the maximum score so far, `total` and `weighted_sum`, which are initially\n"
    "-inf, 0, 0.",
    "For the backward pass, keep y and log_total = maximum + log(total). A block of A is then\n"
    "exp(scores - log_total). The pullback of softmax, A * (dA - row sums of A * dA), needs sums\n"
    "over whole rows. They are equal to the row sums of dy * y. Why?",
    "    new = np.maximum(maximum, scores.real.max(-1, keepdims=True))\n"
    "    weighted_sum = weighted_sum * np.exp(maximum - new) + np.exp(scores - new) @ values\n"
    "In the backward pass, with A and dA of a block and `along`, the row sums of dy * y:\n"
    "    dscores = A * (dA - along)\n"
    "dq is a sum over the blocks. dk and dv are concatenated from the blocks.",
)


def weighted_mean(q: Array, k: Array, v: Array, block: int) -> tuple[Array, Array]:
    """Return softmax(q kᵀ) v and the log-sum-exp of each row of scores."""
    maximum, total, weighted_sum = -np.inf, 0, 0
    for start in range(0, k.shape[-2], block):
        keys, values = k[..., start : start + block, :], v[..., start : start + block, :]
        scores = q @ keys.swapaxes(-1, -2)  # (..., T, block)
        new = np.maximum(maximum, scores.real.max(-1, keepdims=True))
        rescale, exps = np.exp(maximum - new), np.exp(scores - new)
        total = total * rescale + exps.sum(-1, keepdims=True)  # (..., T, 1)
        weighted_sum = weighted_sum * rescale + exps @ values  # (..., T, Dh)
        maximum = new
    return weighted_sum / total, maximum + np.log(total)


def attention_in_blocks(q: Array, k: Array, v: Array, block: int) -> tuple[Array, Pullback]:
    """Compute A v with A = softmax(q kᵀ / √Dh) in blocks of at most `block` columns of A.

    q (..., T, Dh), k and v (..., S, Dh)  ->  (..., T, Dh)
    The pullback returns (dq, dk, dv).
    """
    root = math.sqrt(q.shape[-1])
    y, log_total = weighted_mean(q / root, k, v, block)

    def pullback(dy):
        along = (dy * y).sum(-1, keepdims=True)  # Σ_j A_j dA_j, because dA_j = dy · v_j
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
    """Compute the value token by token. The block size does not affect it."""
    y = np.zeros(q.shape)
    for i in np.ndindex(q.shape[:-1]):
        keys, values = k[i[:-1]], v[i[:-1]]
        scores = [sum(q[i] * key) / math.sqrt(q.shape[-1]) for key in keys]
        weights = [math.exp(score - max(scores)) for score in scores]
        for weight, value in zip(weights, values, strict=True):
            y[i] += weight / sum(weights) * value
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return inputs with full and partial blocks, a single block, and scores that overflow exp."""
    sets = [
        ((2, 3, 4), (2, 5, 4), 1, 2),
        ((2, 2, 3, 2), (2, 2, 4, 2), 1, 2),
        ((4, 3), (3, 3), 1, 9),
        ((3, 4), (4, 4), 1000, 1),
    ]
    draw = rng.normal
    return [(scale * draw(size=q), *draw(size=(2, *k)), block) for q, k, scale, block in sets]
