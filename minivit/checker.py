"""The gradient checker: is this pullback really the derivative of this function?

Move an input by a tiny *imaginary* step h along v. A function built from +, *, exp and the like
then carries the derivative in its imaginary part,

    Im f(x + i h v) / h  =  the derivative of f along v, up to h²,

and nothing is subtracted, so nothing cancels: with h = 1e-20 the derivative is right to machine
precision. (Squire and Trapp, 1998.) Finite differences stop near 1e-9.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .arrays import Array, array_module, to_host
from .tree import Tree, flatten, unflatten

STEP = 1e-20
PASS = 1e-12
Leaves = dict[str, Array]


class Finding(NamedTuple):
    """What the checker found about one argument."""

    argument: str
    error: float
    explanation: str  # "" if the gradient is right


class Errors(dict):
    """{argument: worst error}. Printed: a line for each argument, and what is wrong in words."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__({finding.argument: finding.error for finding in findings})
        self.explanation = "\n".join(f.explanation for f in findings if f.explanation)

    @property
    def worst(self) -> float:
        """The largest error of all arguments."""
        return max(self.values())

    def __str__(self) -> str:
        width = max(map(len, self))
        lines = [f"{name:{width}}  {error:.1e}" for name, error in self.items()]
        return "\n".join([*lines, self.explanation] if self.explanation else lines)


def gradcheck(
    f: Callable[..., Any], x: Tree, *more: Any, directions: int | None = None, seed: int = 0
) -> Errors:
    """Compare a pullback with the complex step, in float64, for a random cotangent.

    f returns (value, pullback); x and more are its arguments: arrays, or trees of them. Whatever
    else (integers, strings, None, arrays of integers) is handed on and not differentiated. Every
    entry of every argument is moved by itself, or, given `directions`, all entries of one
    argument at once, along that many random directions.

    Returns {argument: error}, named as in f's signature, the leaves of a tree by their path. The
    error is the largest |analytic - numeric| over the larger of the argument's own largest
    |numeric| and 1e-3 of the largest over all arguments. `print` it to read what is wrong.
    Raises TypeError if f or its pullback does not keep to the form, or f is not complex-safe.
    """
    given = dict(zip(_names(f, 1 + len(more)), (x, *more), strict=True))
    moving = {name: arg for name, arg in given.items() if _is_tree_of_floats(arg)}
    if not moving:
        raise TypeError("nothing to differentiate: no argument is an array of floats")
    xp = array_module(next(iter(flatten(moving).values())))
    leaves = {name: to_host(leaf).astype("float64") for name, leaf in flatten(moving).items()}

    def call(leaves: Leaves) -> Any:
        tree = unflatten({name: xp.asarray(leaf) for name, leaf in leaves.items()})
        return f(*(tree.get(name, arg) for name, arg in given.items()))

    rng = np.random.default_rng(seed)
    value, pullback = _value_and_pullback(call(leaves))
    dy = rng.normal(size=value.shape)
    analytic = _analytic(pullback, xp.asarray(dy), moving)
    again = _analytic(pullback, xp.asarray(dy), moving)
    numeric, along = {}, {}
    for name, leaf in leaves.items():
        moves = list(_moves(leaf.shape, directions, rng))
        numeric[name] = _complex_step(call, leaves, name, moves, value, dy)
        along[name] = moves
    largest = max(abs(n).max(initial=0) for n in numeric.values())

    findings = []
    for name, leaf in leaves.items():
        a, n = analytic.get(name), numeric[name]
        if a is None:
            findings.append(Finding(name, math.inf, f"{name}: the pullback returns no gradient"))
        elif a.shape != leaf.shape:
            findings.append(Finding(name, math.inf, _explain_shape(name, a.shape, leaf.shape)))
        elif not np.array_equal(a, again[name]):
            findings.append(Finding(name, math.inf, f"{name}: {_CALLED_TWICE}"))
        else:
            a = a.ravel() if directions is None else np.array([(a * v).sum() for v in along[name]])
            scale = max(abs(n).max(initial=0), 1e-3 * largest)
            error = _error(a, n, scale)
            shape = leaf.shape if directions is None else None
            text = "" if error <= PASS else _explain(name, a, n, shape, dy)
            findings.append(Finding(name, error, text))
    return Errors(findings)


_CALLED_TWICE = (
    "the pullback, called a second time, gives another gradient. Does it write into an array it "
    "did not make itself: the gradient handed to it, an input, or one that it keeps?"
)


def _names(f: Callable[..., Any], count: int) -> list[str]:
    """The names of f's first arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in inspect.signature(f).parameters.values() if p.kind in kinds][:count]
    return names + [f"argument {i}" for i in range(len(names), count)]


def _is_tree_of_floats(arg: Any) -> bool:
    if not isinstance(arg, (dict, list)):
        return hasattr(arg, "dtype") and hasattr(arg, "shape") and arg.dtype.kind in "fc"
    leaves = flatten(arg).values()
    return bool(leaves) and all(map(_is_tree_of_floats, leaves))


def _value_and_pullback(result: Any) -> tuple[Array, Callable[..., Any]]:
    if not (isinstance(result, tuple) and len(result) == 2 and callable(result[1])):
        raise TypeError("f must return (value, pullback)")
    return to_host(result[0]), result[1]


def _analytic(pullback: Callable[..., Any], dy: Array, moving: dict[str, Tree]) -> Leaves:
    """The pullback's gradients under the names of the arguments' leaves."""
    result = pullback(dy)
    results = result if isinstance(result, tuple) else (result,)
    named = {}
    if isinstance(results[-1], dict) and set(results[-1]) <= set(moving):
        named = results[-1]  # (dx, {name: gradient}): a function with parameters
        results = results[:-1]
    inputs = [name for name in moving if name not in named]
    gradients = dict(zip(inputs, results, strict=False)) | named  # too few are found out later
    return {name: to_host(leaf) for name, leaf in flatten(gradients).items()}


def _moves(shape: tuple[int, ...], directions: int | None, rng: Any) -> Iterator[Array]:
    """Directions to move an argument in: each entry by itself, or all of them at random."""
    if directions is None:
        for index in np.ndindex(shape):
            move = np.zeros(shape)
            move[index] = 1
            yield move
    else:
        for _ in range(directions):
            yield rng.normal(size=shape)


def _complex_step(
    call: Callable[[Leaves], Any],
    leaves: Leaves,
    name: str,
    moves: list[Array],
    value: Array,
    dy: Array,
) -> Array:
    """Along each move of one argument, how fast the sum of dy * f(...) grows."""
    slopes = []
    point = {n: leaf.astype("complex128") for n, leaf in leaves.items()}  # a fresh one each time
    for move in moves:
        step = {n: leaf.copy() for n, leaf in point.items()}
        step[name] += 1j * STEP * move
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            try:
                y = to_host(call(step)[0])
            except (np.exceptions.ComplexWarning, TypeError) as reason:
                raise TypeError(f"{_NOT_COMPLEX_SAFE} ({reason})") from reason
        if np.iscomplexobj(y) is False:
            raise TypeError(_NOT_COMPLEX_SAFE)
        if not np.allclose(y.real, value, rtol=1e-9, atol=1e-9 * abs(value).max(initial=0)):
            raise TypeError(
                "f gives another value when called again with the same numbers. Either it draws "
                "random ones: let it make its generator inside. Or it writes into its inputs"
            )
        slopes.append((dy * y.imag).sum() / STEP)
    return np.array(slopes)


_NOT_COMPLEX_SAFE = (
    "f loses the imaginary part of its input, which carries the derivative: it must not use abs, "
    "var, float, comparisons other than on .real, or write into an array of a real dtype"
)


def _error(a: Array, n: Array, scale: float) -> float:
    worst = abs(a - n).max(initial=0)
    if not math.isfinite(worst):
        return math.inf
    return float(worst / scale) if scale else float(worst)


def _explain_shape(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    text = f"{name}: the gradient has shape {got}, the argument {expected}."
    if got[::-1] == expected:
        return text + " Is a transpose missing?"
    if got[len(got) - len(expected) :] == expected:
        return text + " The argument serves the whole batch: is a sum over the batch missing?"
    return text


def _explain(
    name: str, a: Array, n: Array, shape: tuple[int, ...] | None, dy: Array
) -> str:
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
        return f"{right.sum()} of {right.size} entries are right."
    return ""


def _explain_ratio(ratio: float) -> str:
    text = f"Every entry is {ratio:.6g} times what it should be"
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
