"""What training makes small: softmax cross-entropy, or the mean squared error."""

from functools import singledispatch

import numpy as np

from ..arrays import Array, Pullback, array_module


@singledispatch
def cross_entropy(
    logits: Array, labels: Array, label_smoothing: float = 0.0
) -> tuple[Array, Pullback]:
    """The mean over the batch of -Σ_c target_c log softmax(logits)_c.

    logits (B, K); labels (B,) integers from 0 to K - 1, or soft targets (B, K)  ->  a scalar, in
    nats. `label_smoothing` s moves the targets to (1 - s) target + s / K. Only logits get a gradient.
    Raises ValueError for labels of another shape, or out of range, and for s outside [0, 1];
    TypeError for labels that are neither.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label smoothing is a share from 0 to 1, not {label_smoothing}")
    xp = array_module(logits)
    B = len(logits)
    targets = make_targets(logits, labels, label_smoothing)  # (B, K)
    mass = targets.sum(-1, keepdims=True)  # (B, 1), ones unless the caller's own
    shifted = logits - logits.real.max(-1, keepdims=True)
    exps = xp.exp(shifted)
    norm = exps.sum(-1, keepdims=True)  # (B, 1)
    losses = mass * xp.log(norm) - (targets * shifted).sum(-1, keepdims=True)

    def pullback(dloss: Array = 1) -> Array:
        return (exps / norm * mass - targets) * (dloss / B)  # (softmax - target) / B

    return losses.sum() / B, pullback


def make_targets(logits: Array, labels: Array, label_smoothing: float) -> Array:
    """Labels as probabilities (B, K), of the dtype of the logits, smoothed."""
    xp = array_module(logits)
    B, K = logits.shape
    kind = logits.real.dtype
    if labels.shape == (B, K):
        targets = xp.asarray(labels).astype(kind)
    elif labels.shape != (B,):
        raise ValueError(f"labels of shape {labels.shape} for logits of shape {logits.shape}")
    else:
        check_labels(labels, K)
        targets = (xp.asarray(labels)[:, None] == xp.arange(K)).astype(kind)
    return targets * (1 - label_smoothing) + label_smoothing / K if label_smoothing else targets


def check_labels(labels: Array, K: int) -> None:
    """Refuse labels that are no class. Those already on a GPU are believed, not waited for."""
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels are class numbers, integers; these are {labels.dtype}")
    if isinstance(labels, np.ndarray) and labels.size and not 0 <= labels.min() <= labels.max() < K:
        bad = labels[(labels < 0) | (labels >= K)][0]
        raise ValueError(f"label {bad} is out of range: with {K} classes they go from 0 to {K - 1}")


def mean_squared_error(y: Array, target: Array) -> tuple[Array, Pullback]:
    """The mean of (y - target)², over every entry.

    y and target of one shape  ->  a scalar. Both get a gradient.
    Raises ValueError if the shapes differ.
    """
    if y.shape != target.shape:
        raise ValueError(f"shapes differ: {y.shape} and {target.shape}")
    error = y - target

    def pullback(dloss: Array = 1) -> tuple[Array, Array]:
        dy = error * (2 * dloss / y.size)
        return dy, -dy

    return (error * error).sum() / y.size, pullback
