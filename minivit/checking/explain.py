"""Explain incorrect gradients from their values, without the source of the function."""

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
    """Explain the difference between an analytic gradient a and a numeric gradient n.

    a, n (entries,) or (directions,); shape of the argument, None for directions; cotangent dy
    """
    worst = int(np.argmax(np.where(np.isfinite(a), abs(a - n), math.inf)))
    where = f"along direction {worst}"
    if shape is not None:
        where = f"at index {tuple(map(int, np.unravel_index(worst, shape)))}"
    text = f"{name}: worst {where}, analytic {a[worst]:.6g}, numeric {n[worst]:.6g}."
    return f"{text} {_guess_cause(a, n, shape, dy)}".rstrip()


def _guess_cause(a: Array, n: Array, shape: tuple[int, ...] | None, dy: Array) -> str:
    def close(x: Array, y: Array) -> bool:
        return bool(abs(x - y).max() <= 1e-6 * abs(y).max())

    if not np.isfinite(a).all():
        return "The gradient is not finite. Is there a division by zero or a logarithm of zero?"
    if not a.any():
        return "The gradient is zero. Does the backward pass reach this argument?"
    if not n.any():
        return "The output does not depend on this argument."
    ratio = float(a @ n / (n @ n))
    if close(a, ratio * n):
        return _explain_ratio(ratio)
    if shape is None:
        return ""
    if len(shape) == 2 and shape[0] == shape[1] and close(a.reshape(shape).T.ravel(), n):
        return "The gradient is transposed."
    if close(np.sort(a), np.sort(n)):
        return "The entries are correct but in the wrong places. Check reshapes and transposes."
    if a.size == dy.size:
        d = dy.ravel()
        factor = float((a - n) @ d / (d @ d))
        if close(a - n, factor * d):
            return f"The difference is {factor:.3g} times dy. Check the residual connection."
    correct = int((abs(a - n) <= 1e-9 * abs(n).max()).sum())
    return f"{correct} of {a.size} entries are correct." if correct else ""


def _explain_ratio(ratio: float) -> str:
    if abs(ratio - 1) < 1e-6:
        return "Every entry is nearly correct. Is an epsilon different, or a step in float32?"
    text = f"Every entry is {ratio:.6g} times the correct value"
    if abs(ratio + 1) < 1e-6:
        return f"{text}. Check the sign."
    large = abs(ratio) > 1
    factor = abs(ratio) if large else 1 / abs(ratio)
    if abs(factor - round(factor)) < 1e-6:
        if large:
            return f"{text}. Is it counted more than once, or is a mean computed as a sum?"
        return f"{text}. Is a term missing, or is a sum computed as a mean?"
    if abs(factor**2 - round(factor**2)) < 1e-5:
        root = f"√{round(factor**2)}" if large else f"1/√{round(factor**2)}"
        return f"{text}, {root}. Check factors such as 1/√Dh."
    return f"{text}."
