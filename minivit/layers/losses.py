"""Loss functions: softmax cross-entropy and mean squared error."""

from functools import singledispatch

import numpy as np

from ..arrays import Array, Pullback, array_module, widen_float16

SUM_TOLERANCE = 1e-3  # of the sums of soft labels; float16 rows have about half this error


@singledispatch
@widen_float16
def cross_entropy(
    logits: Array, labels: Array, label_smoothing: float = 0.0
) -> tuple[Array, Pullback]:
    """Mean over the batch of -Σ_c target_c log softmax(logits)_c, in nats.

    logits (B, K); labels (B,) integers from 0 to K - 1, or soft targets (B, K)  ->  a scalar
    Label smoothing s replaces the targets by (1 - s) target + s / K. Only the logits receive a
    gradient. Raises ValueError for labels of another shape or out of range, for soft targets that
    are not probabilities, and for s outside [0, 1]; TypeError if labels (B,) are not integers.
    """
    check_label_smoothing(label_smoothing)
    xp = array_module(logits)
    B = len(logits)
    targets = make_targets(logits, labels, label_smoothing)  # (B, K)
    mass = targets.sum(-1, keepdims=True)  # (B, 1), 1 up to rounding errors
    shifted = logits - logits.real.max(-1, keepdims=True)
    exps = xp.exp(shifted)
    norm = exps.sum(-1, keepdims=True)  # (B, 1)
    losses = mass * xp.log(norm) - (targets * shifted).sum(-1, keepdims=True)

    def pullback(dloss: Array = 1) -> Array:
        return (exps / norm * mass - targets) * (dloss / B)  # (softmax - target) / B

    return losses.sum() / B, pullback


def check_label_smoothing(label_smoothing: float) -> None:
    """Raise ValueError if the label smoothing is not in [0, 1]."""
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, not {label_smoothing}")


def make_targets(logits: Array, labels: Array, label_smoothing: float) -> Array:
    """Convert labels to probabilities (B, K) with the dtype of the logits, and smooth them."""
    xp = array_module(logits)
    B, K = logits.shape
    dtype = logits.real.dtype
    if labels.shape == (B, K):
        check_soft_labels(labels)
        targets = xp.asarray(labels).astype(dtype)
    elif labels.shape != (B,):
        raise ValueError(f"labels of shape {labels.shape} for logits of shape {logits.shape}")
    else:
        check_labels(labels, K)
        targets = (xp.asarray(labels)[:, None] == xp.arange(K)).astype(dtype)
    return targets * (1 - label_smoothing) + label_smoothing / K if label_smoothing else targets


def check_labels(labels: Array, K: int) -> None:
    """Raise TypeError or ValueError unless the labels are integers from 0 to K - 1.

    The range of labels on a GPU is not checked, because this would wait for the GPU.
    """
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers (class numbers), not {labels.dtype}")
    if isinstance(labels, np.ndarray) and labels.size and not 0 <= labels.min() <= labels.max() < K:
        bad = labels[(labels < 0) | (labels >= K)][0]
        raise ValueError(f"label {bad} is out of range: {K} classes have labels from 0 to {K - 1}")


def check_soft_labels(labels: Array) -> None:
    """Raise ValueError unless each row of soft labels (B, K) is a probability distribution.

    Labels on a GPU are not checked, because this would wait for the GPU.
    """
    if not isinstance(labels, np.ndarray):
        return
    sums = labels.sum(-1, dtype=np.float64)  # (B,)
    invalid = ~((abs(sums - 1) < SUM_TOLERANCE) & (labels >= 0).all(-1))  # also if NaN or infinite
    if invalid.any():
        i = int(invalid.argmax())
        raise ValueError(
            "soft labels must be finite and non-negative, and each row must sum to 1: row "
            f"{i} has a minimum of {labels[i].min():.3g} and a sum of {sums[i]:.6g}"
        )


@widen_float16
def mean_squared_error(y: Array, target: Array) -> tuple[Array, Pullback]:
    """Mean of (y - target)² over all entries. Both arguments receive a gradient.

    y and target of the same shape  ->  a scalar. Raises ValueError if the shapes differ.
    """
    if y.shape != target.shape:
        raise ValueError(f"shapes differ: {y.shape} and {target.shape}")
    error = y - target

    def pullback(dloss: Array = 1) -> tuple[Array, Array]:
        dy = error * (2 * dloss / y.size)
        return dy, -dy

    return (error * error).sum() / y.size, pullback
