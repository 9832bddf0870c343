"""Diagnose incorrect gradients from their values, without the source code of the function."""

import math

import numpy as np

from ..arrays import Array


def explain_shape(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Explain a gradient whose shape differs from the shape of its argument."""
    text = f"{name}: the gradient has shape {got}, but the argument has shape {expected}."
    if got[::-1] == expected:
        return f"{text} Is a transpose missing?"
    if got[len(got) - len(expected) :] == expected:
        return f"{text} Is a sum over the batch missing?"
    return text


def explain(name: str, a: Array, n: Array, shape: tuple[int, ...] | None, dy: Array) -> str:
    """Explain the difference between an analytic gradient a and a numerical gradient n.

    a, n (entries,), or (directions,) for directional derivatives; `shape` is that of the argument,
    None for directional derivatives; `dy` is the cotangent of the output
    """
    worst = int(np.argmax(np.where(np.isfinite(a), abs(a - n), math.inf)))
    where = f"along direction {worst}"
    if shape is not None:
        where = f"at index {tuple(map(int, np.unravel_index(worst, shape)))}"
    text = f"{name}: largest error {where}: analytic {a[worst]:.6g}, numerical {n[worst]:.6g}."
    return f"{text} {_guess_cause(a, n, shape, dy)}".rstrip()


def _guess_cause(a: Array, n: Array, shape: tuple[int, ...] | None, dy: Array) -> str:
    def close(x: Array, y: Array) -> bool:
        return bool(abs(x - y).max() <= 1e-6 * abs(y).max())

    if not np.isfinite(a).all():
        return "The gradient is not finite. Is there a division by zero or a logarithm of zero?"
    if not a.any():
        return "The gradient is zero. Does the backward pass reach this argument?"
    if not n.any():
        return "The output does not depend on this argument, so its gradient should be zero."
    ratio = float(a @ n / (n @ n))
    if close(a, ratio * n):
        return _explain_ratio(ratio)
    if shape is None:
        return ""
    if len(shape) == 2 and shape[0] == shape[1] and close(a.reshape(shape).T.ravel(), n):
        return "The gradient is transposed."
    if close(np.sort(a), np.sort(n)):
        return "The values are correct but in the wrong order. Check reshapes and transposes."
    if a.size == dy.size:
        d = dy.ravel()
        factor = float((a - n) @ d / (d @ d))
        if close(a - n, factor * d):
            return f"The difference is {factor:.3g} times dy. Check the residual connection."
    correct = int((abs(a - n) <= 1e-9 * abs(n).max()).sum())
    return f"{correct} of {a.size} entries are correct." if correct else ""


def _explain_ratio(ratio: float) -> str:
    if abs(ratio - 1) < 1e-6:
        return "Every entry is nearly correct. Is there another epsilon, or a float32 result?"
    text = f"Every entry is {ratio:.6g} times the correct value"
    if abs(ratio + 1) < 1e-6:
        return f"{text}. Check the sign."
    large = abs(ratio) > 1
    factor = abs(ratio) if large else 1 / abs(ratio)
    if abs(factor - round(factor)) < 1e-6:
        if large:
            return f"{text}. Is a term added twice, or is a sum used instead of a mean?"
        return f"{text}. Is a term missing, or is a mean used instead of a sum?"
    if abs(factor**2 - round(factor**2)) < 1e-5:
        root = "-" * (ratio < 0) + "1/" * (not large) + f"√{round(factor**2)}"
        return f"{text}, a factor of {root}. Check scale factors such as 1/√Dh."
    return f"{text}."
