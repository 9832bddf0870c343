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
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, array_module, to_host
from ..tree import Tree, flatten, unflatten
from .explain import explain, explain_shape

STEP = 1e-20
TOLERANCE = 1e-12
Leaves = dict[str, Array]
Move = Any  # an index: that entry by itself; or an array: all entries along it

CALLED_TWICE = (
    "the pullback, called a second time, gives another gradient. Does it write into an array "
    "that it keeps?"
)
NOT_COMPLEX_SAFE = (
    "f loses the imaginary part of its input, which carries the derivative: it must not use abs, "
    "var, float, comparisons other than on .real, or write into an array of a real dtype"
)
NOT_REPEATABLE = (
    "f gives another value when called again with the same numbers. Either it draws random ones: "
    "let it make its generator inside. Or it writes into its inputs"
)


class Finding(NamedTuple):
    """What the checker found about one argument."""

    argument: str
    error: float
    explanation: str  # "" if the gradient is right


class GradientReport(dict):
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
) -> GradientReport:
    """Compare a pullback with the complex step, in float64, for a random cotangent.

    f returns (value, pullback); x and more are its arguments: arrays, or trees of them. Whatever
    else (integers, strings, None, arrays of integers) is handed on and not differentiated. Every
    entry of every argument is moved by itself, or, given `directions`, all entries of one
    argument at once, along that many random directions.

    Returns {argument: error}, named as in f's signature, the leaves of a tree by their path. The
    error is the largest |analytic - numeric| over the larger of the argument's own largest
    |numeric| and 1e-3 of the largest over all arguments. `print` it to read what is wrong.
    Raises TypeError if f or its pullback does not keep to the form, is not complex-safe, or
    writes into what belongs to the caller; ValueError for fewer than one direction.
    """
    if directions is not None and directions < 1:
        raise ValueError(f"directions is a number from 1 up, not {directions}")
    given = dict(zip(_names(f, 1 + len(more)), (x, *more), strict=True))
    moving = {name: arg for name, arg in given.items() if _has_floats(arg)}
    flat = flatten(moving)
    floats = {name: leaf for name, leaf in flat.items() if _is_floats(leaf)}
    if not floats:
        raise TypeError("nothing to differentiate: no argument is an array of floats")
    xp = array_module(next(iter(floats.values())))
    leaves = {name: to_host(leaf).astype("float64") for name, leaf in floats.items()}

    def call(leaves: Leaves) -> Any:
        tree = unflatten({**flat, **{name: xp.asarray(leaf) for name, leaf in leaves.items()}})
        return f(*(tree.get(name, arg) for name, arg in given.items()))

    rng = np.random.default_rng(seed)
    value, dy, gradients, complaints = _backward(call, leaves, list(moving), rng)
    slopes = {}
    for name, leaf in leaves.items():
        moves = list(np.ndindex(leaf.shape))
        if directions is not None:
            moves = [rng.normal(size=leaf.shape) for _ in range(directions)]
        numeric = [_complex_step(call, leaves, name, move, value, dy) for move in moves]
        if name not in complaints:
            analytic = [_along(gradients[name], move) for move in moves]
            slopes[name] = np.array(analytic), np.array(numeric)
        else:
            slopes[name] = np.full(len(moves), np.nan), np.array(numeric)
    return _compare(slopes, complaints, leaves, dy, by_entry=directions is None)


def _backward(
    call: Callable[[Leaves], Any], leaves: Leaves, inputs: list[str], rng: np.random.Generator
) -> tuple[Array, Array, Leaves, dict[str, str]]:
    """Value, cotangent, the pullback's gradients, and {argument: what is plainly wrong}."""
    point = {name: leaf.copy() for name, leaf in leaves.items()}
    value, pullback = _value_and_pullback(call(point))
    kept = np.array(to_host(value))  # a copy: f may keep its value, and write into it
    dy = rng.normal(size=kept.shape)
    handed = array_module(value).asarray(dy.copy())
    gradients = _by_name(pullback(handed), inputs)
    again = _by_name(pullback(array_module(value).asarray(dy.copy())), inputs)
    for name, array in {"dy": (handed, dy), **{n: (point[n], leaves[n]) for n in leaves}}.items():
        if not np.array_equal(to_host(array[0]), array[1], equal_nan=True):
            raise TypeError(f"f or its pullback writes into {name}, which belongs to the caller")

    complaints = {}
    for name, leaf in leaves.items():
        if name not in gradients:
            complaints[name] = f"{name}: the pullback returns no gradient"
        elif gradients[name].shape != leaf.shape:
            complaints[name] = explain_shape(name, gradients[name].shape, leaf.shape)
        elif not np.array_equal(gradients[name], again.get(name), equal_nan=True):
            complaints[name] = f"{name}: {CALLED_TWICE}"
    return kept, dy, gradients, complaints


def _complex_step(
    call: Callable[[Leaves], Any], leaves: Leaves, name: str, move: Move, value: Array, dy: Array
) -> float:
    """How fast the sum of dy * f(...) grows along a move of one argument; all are complex."""
    point = {n: leaf.astype("complex128") for n, leaf in leaves.items()}
    if isinstance(move, tuple):
        point[name][move] += 1j * STEP
    else:
        point[name] += 1j * STEP * move
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        try:
            y = to_host(call(point)[0])
        except (np.exceptions.ComplexWarning, TypeError) as reason:
            raise TypeError(f"{NOT_COMPLEX_SAFE} ({reason})") from reason
    if not np.iscomplexobj(y):
        raise TypeError(NOT_COMPLEX_SAFE)
    if not np.allclose(y.real, value, rtol=1e-9, atol=1e-9 * abs(value).max(initial=0)):
        raise TypeError(NOT_REPEATABLE)
    return (dy * y.imag).sum() / STEP


def _along(gradient: Array, move: Move) -> float:
    """The slope along a move that a gradient promises."""
    return gradient[move] if isinstance(move, tuple) else (gradient * move).sum()


def _compare(
    slopes: dict[str, tuple[Array, Array]],
    complaints: dict[str, str],
    leaves: Leaves,
    dy: Array,
    by_entry: bool,
) -> GradientReport:
    largest = max(abs(numeric).max(initial=0) for _, numeric in slopes.values())
    findings = []
    for name, (analytic, numeric) in slopes.items():
        scale = max(abs(numeric).max(initial=0), 1e-3 * largest)
        worst = abs(analytic - numeric).max(initial=0)
        error = float(worst / scale if scale else worst)
        error = error if math.isfinite(error) else math.inf
        text = complaints.get(name, "")
        if error > TOLERANCE and not text:
            shape = leaves[name].shape if by_entry else None
            text = explain(name, analytic, numeric, shape, dy)
        findings.append(Finding(name, error, text))
    return GradientReport(findings)


def _names(f: Callable[..., Any], count: int) -> list[str]:
    """The names of f's first arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in inspect.signature(f).parameters.values() if p.kind in kinds][:count]
    return names + [f"argument {i}" for i in range(len(names), count)]


def _is_floats(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape") and leaf.dtype.kind in "fc"


def _has_floats(arg: Tree) -> bool:
    return any(map(_is_floats, flatten(arg).values()))


def _value_and_pullback(result: Any) -> tuple[Array, Callable[..., Any]]:
    if not (isinstance(result, tuple) and len(result) == 2 and callable(result[1])):
        raise TypeError("f must return (value, pullback)")
    if not _is_floats(result[0]):
        raise TypeError(f"the value must be an array of floats, it is {type(result[0]).__name__}")
    return result


def _by_name(result: Any, inputs: list[str]) -> Leaves:
    """Copies of a pullback's gradients, under the names of the arguments' leaves."""
    results = result if isinstance(result, tuple) else (result,)
    named = {}
    if isinstance(results[-1], dict) and set(results[-1]) <= set(inputs):
        named = results[-1]  # (dx, {name: gradient}): a function with parameters
        results = results[:-1]
    unnamed = [name for name in inputs if name not in named]
    flat = flatten(dict(zip(unnamed, results, strict=False)) | named)  # too few: found out later
    return {name: np.array(to_host(leaf)) for name, leaf in flat.items() if leaf is not None}
