"""What a wrong gradient may mean, in words for whoever wrote it."""

import math

import numpy as np

from ..arrays import Array


def explain_shape(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """A gradient whose shape is not the argument's."""
    text = f"{name}: the gradient has shape {got}, the argument {expected}."
    if got[::-1] == expected:
        return text + " Is a transpose missing?"
    if got[len(got) - len(expected) :] == expected:
        return text + " The argument serves the whole batch: is a sum over the batch missing?"
    return text


def explain(name: str, a: Array, n: Array, shape: tuple[int, ...] | None, dy: Array) -> str:
    """In words: the worst entry, and what the ratio of analytic to numeric may tell."""
    worst = int(np.argmax(np.where(np.isfinite(a), abs(a - n), math.inf)))
    where = f"along direction {worst}"
    if shape is not None:
        where = f"at index {tuple(map(int, np.unravel_index(worst, shape)))}"
    text = f"{name}: worst {where}, analytic {a[worst]:.6g}, numeric {n[worst]:.6g}."
    hint = _hint(a, n, shape, dy)
    return f"{text} {hint}" if hint else text


def _hint(a: Array, n: Array, shape: tuple[int, ...] | None, dy: Array) -> str:
    def same(x: Array, y: Array) -> bool:
        return bool(abs(x - y).max() <= 1e-6 * abs(y).max())

    if not np.isfinite(a).all():
        return "It is not finite: a division by zero, or a logarithm of it?"
    if not a.any():
        return "It is all zeros: does this path reach the argument at all?"
    if not n.any():
        return "The output does not depend on this argument."
    ratio = float(a @ n / (n @ n))
    if same(a, ratio * n):
        return _explain_ratio(ratio)
    if shape is None:
        return ""
    if len(shape) == 2 and shape[0] == shape[1] and same(a.reshape(shape).T.ravel(), n):
        return "It is the right gradient, transposed."
    if same(np.sort(a), np.sort(n)):
        return "These are the right numbers in other places: look at the reshapes and transposes."
    if a.size == dy.size:
        difference = a - n
        part = float(difference @ dy.ravel() / (dy.ravel() @ dy.ravel()))
        if same(difference, part * dy.ravel()):
            return f"The difference is {part:.3g} times dy: look at the residual connection."
    right = abs(a - n) <= 1e-9 * abs(n).max()
    if right.any():
        return f"{right.sum()} of {right.size} entries are right, the others are not."
    return ""


def _explain_ratio(ratio: float) -> str:
    text = f"Every entry is {ratio:.6g} times what it should be"
    if abs(ratio - 1) < 1e-6:
        return "Every entry is nearly right: does float32 slip in, or another eps?"
    square = ratio * ratio if abs(ratio) > 1 else 1 / (ratio * ratio)
    if abs(ratio + 1) < 1e-6:
        return text + ": a sign."
    if abs(ratio - round(ratio)) < 1e-6:
        return text + ": counted more than once, or a sum where there should be a mean?"
    if abs(1 / ratio - round(1 / ratio)) < 1e-6:
        return text + ": a part of it missing, or a mean where there should be a sum?"
    if abs(square - round(square)) < 1e-5:
        power = "√" if abs(ratio) > 1 else "1/√"
        return text + f", which is {power}{round(square)}: look for a factor like 1/√Dh."
    return text + "."
