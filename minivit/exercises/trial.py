"""A trial: one set of arguments, given to the reader's function and to the solution."""

import ast
import contextlib
import inspect
import os
import textwrap
import traceback
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

from ..arrays import Array
from ..checking.explain import explain, explain_shape
from ..checking.gradcheck import CALLED_TWICE, NOT_REPEATABLE, gradcheck
from ..tree import Tree, flatten

TOLERANCE = 1e-10  # of a value and of a gradient, relative to the largest entry
COARSE = 1e-5  # a larger error than this, central differences can confirm
MOVE, DIFFERENCES = 1e-5, 1e-7  # by how much they move an entry, and their tolerance
REAL_ONLY = ("abs", "absolute", "fabs", "norm", "std", "var", "vdot", "conj", "real")

WRITES = (
    "it writes into {}, which belongs to the caller: `-=`, `[...] =` and `out=` change the\n"
    "caller's array; make a new one"
)
NOTE = (
    "The imaginary part of its input gets lost{}, so the complex step cannot see\n"
    "its derivative. Central differences could: the gradients agree with them to {:.0e},\n"
    "where the complex step would have asked for {:.0e}."
)


class Wrong(Exception):
    """What is wrong, in words."""


class Trial:
    """Checks, each of which needs that those before it went well. They raise Wrong."""

    def __init__(
        self,
        written: Callable[..., Any],
        solution: Callable[..., Any],
        expected: Callable[..., Any] | None,
        arguments: tuple,
    ) -> None:
        self.written, self.arguments, self.note = written, arguments, ""
        names = list(inspect.signature(solution).parameters)
        self.given = dict(zip(names, arguments, strict=False))
        result = solution(*deepcopy(arguments))
        self.has_pullback = isinstance(result, tuple) and callable(result[-1])
        self.right = result[0] if self.has_pullback else result
        if self.has_pullback:
            self.dy = np.random.default_rng(0).normal(size=np.shape(self.right))
            self.right_gradients = result[1](self.dy.copy())
        if expected:
            self.right = expected(*deepcopy(arguments))

    def run(self) -> None:
        """Call it."""
        self.value = self.written(*deepcopy(self.arguments))

    def check_pair(self) -> None:
        """It returned a value and a function."""
        pair = self.value
        if not (isinstance(pair, tuple) and len(pair) == 2 and callable(pair[1])):
            hint = "; is the last line `return y, pullback`?" if pair is None else ""
            raise Wrong(f"it returns {form(pair)}, not (array, function){hint}")
        self.value, self.pullback = pair

    def check_shape(self) -> None:
        """The value is an array, or several, as it should be."""
        if self.value is ...:
            raise Wrong("the value is still `...`: nothing is written there yet")
        if form(self.value) != form(self.right):
            raise Wrong(f"the value is {form(self.value)}, it should be {form(self.right)}")
        for label, got, right in pairs(self.value, self.right):
            if got.shape != right.shape:
                raise Wrong(f"{label} has shape {got.shape}, it should have {right.shape}")
            if got.dtype != right.dtype:
                raise Wrong(f"{label} has dtype {got.dtype}, it should have {right.dtype}")

    def check_value(self) -> None:
        """Every entry is right, but for rounding."""
        for label, got, right in pairs(self.value, self.right):
            error = np.nan_to_num(abs(got - right), nan=np.inf)
            off = ~(error <= TOLERANCE * abs(right).max(initial=0))
            if off.any():
                worst = tuple(map(int, np.unravel_index(error.argmax(), error.shape)))
                a, b = got[worst], right[worst]
                raise Wrong(
                    f"{label} is off in {off.sum()} of {off.size} entries, the worst at {worst}:\n"
                    f"{a:.9g}, it should be {b:.9g}; they differ by {abs(a - b):.1e}"
                )

    def check_gradient_shapes(self) -> None:
        """The pullback returns what the solution's does, if not yet in its numbers."""
        self.gradients = deepcopy(self.pullback(self.dy.copy()))
        got, right = form(self.gradients), form(self.right_gradients)
        if got != right:
            raise Wrong(f"the pullback returns {got}, it should return {right}")
        gradients, right_ones = self.by_name(self.gradients), self.by_name(self.right_gradients)
        for name, gradient in gradients.items():
            if gradient.shape != right_ones[name].shape:
                raise Wrong(explain_shape(name, gradient.shape, right_ones[name].shape))

    def check_repeated(self) -> None:
        """Called once more, it gives the same; and what it was given is as it was."""
        arguments = deepcopy(self.arguments)
        now = dict(zip(self.given, arguments, strict=True))
        with muted():
            value = self.written(*arguments)
            must_be_unchanged(self.given, now)
            if self.has_pullback:
                value, pullback = value
                dy = self.dy.copy()
                first, second = (self.by_name(deepcopy(pullback(dy))) for _ in range(2))
                must_be_unchanged(self.given | {"dy": self.dy}, now | {"dy": dy})
                for name, gradient in first.items():
                    if not same(gradient, second[name]):
                        raise Wrong(f"{name}: {CALLED_TWICE}")
        if not all(same(a, b) for _, a, b in pairs(self.value, value)):
            raise Wrong(NOT_REPEATABLE)

    def check_gradients(self) -> None:
        """The complex step finds the same gradients; if it cannot tell, central differences do."""
        reason, words, worst = None, "", np.inf
        with muted():
            try:
                errors = gradcheck(self.written, *deepcopy(self.arguments))
                words, worst = errors.explanation, errors.worst
            except Exception as error:  # complex numbers are too much for the reader's function
                reason = error
            if worst <= TOLERANCE:
                return
            if worst < COARSE:
                raise Wrong(words)
            by_differences = self.compare_with_differences()
        lost = where_complex_numbers_end(self.written, reason)
        if by_differences:
            raise Wrong(by_differences if reason or lost else words)
        self.note = NOTE.format(lost and f" ({lost})", DIFFERENCES, TOLERANCE)

    def compare_with_differences(self) -> str:
        """What is wrong with the gradients as central differences see it, or nothing."""
        analytic = self.by_name(self.gradients)
        numeric = {name: self.differences(name, a.shape) for name, a in analytic.items()}
        largest = max(abs(n).max(initial=0) for n in numeric.values())
        found = []
        for name, n in numeric.items():
            scale = max(abs(n).max(initial=0), 1e-3 * largest)
            if not abs(analytic[name] - n).max(initial=0) <= DIFFERENCES * scale:
                found.append(explain(name, analytic[name].ravel(), n.ravel(), n.shape, self.dy))
        return "\n".join(found)

    def differences(self, name: str, shape: tuple[int, ...]) -> Array:
        """The gradient of one argument, from moving its entries up and down."""
        numeric = np.empty(shape)
        for i in np.ndindex(shape):
            up, down = (self.value_when_moved(name, i, by) for by in (MOVE, -MOVE))
            numeric[i] = (self.dy * (up - down)).sum() / (2 * MOVE)
        return numeric

    def value_when_moved(self, name: str, i: tuple[int, ...], by: float) -> Array:
        """The value at arguments of which one entry is another."""
        arguments = deepcopy(self.arguments)
        flatten(dict(zip(self.given, arguments, strict=True)))[name][i] += by
        return self.written(*arguments)[0]

    def by_name(self, gradients: Any) -> dict[str, Array]:
        """The arrays that a pullback returned, each with the name of its argument."""
        parts = gradients if isinstance(gradients, tuple) else (gradients,)
        moving = [name for name, tree in self.given.items() if has_floats(tree)]
        named: dict[str, Array] = {}
        for name, part in zip(moving, parts, strict=False):
            named |= flatten(part if isinstance(part, dict) else {name: part})
        return named


def has_floats(tree: Tree) -> bool:
    """Whether there is something in it to differentiate by."""
    return any(getattr(leaf, "dtype", np.dtype(int)).kind == "f" for leaf in flatten(tree).values())


def form(x: Any) -> str:
    """What something is: an array, a tuple of arrays, ..."""
    if isinstance(x, tuple):
        return f"({', '.join(map(form, x))})"
    if isinstance(x, list):
        return f"[{', '.join(map(form, x))}]"
    if isinstance(x, dict):
        return "{" + ", ".join(f'"{name}": {form(x[name])}' for name in sorted(x, key=str)) + "}"
    if x is None or x is ...:
        return "None" if x is None else "..."
    if isinstance(x, (np.ndarray, np.generic)):
        return "array"
    return "function" if callable(x) else type(x).__name__


def outline(name: str, argument: Any) -> str:
    """An argument for a message: the shape of an array, the name of a function, a number."""
    if isinstance(argument, np.ndarray):
        return f"{name} {argument.shape}"
    if isinstance(argument, (dict, list)):
        return name
    return f"{name} {getattr(argument, '__name__', argument)}"


def pairs(got: Any, right: Any) -> list[tuple[str, Array, Array]]:
    """A value beside another, or several beside as many: (what to call it, one, the other)."""
    if not isinstance(right, tuple):
        return [("the value", got, right)]
    labels = [f"value {i} of {len(right)}" for i in range(1, len(right) + 1)]
    return list(zip(labels, got, right, strict=True))


def same(a: Array, b: Array) -> bool:
    """Whether two arrays are equal, whatever of them is not a number."""
    return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")


def must_be_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raises Wrong if an array in a tree of arguments is not what it was."""
    flat = flatten(after)
    for name, leaf in flatten(before).items():
        if isinstance(leaf, np.ndarray) and not same(leaf, flat[name]):
            raise Wrong(WRITES.format(name))


@contextlib.contextmanager
def muted() -> Any:
    """What is printed here is not shown: the function is called hundreds of times."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def where_complex_numbers_end(written: Callable[..., Any], reason: Exception | None) -> str:
    """The line of the reader's code that took the imaginary part away, as far as one can tell."""
    if reason is not None:
        error = reason.__cause__ or reason
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == file_of(written)]
        if own:
            return f"line {own[-1].lineno}: `{own[-1].line}`"
    try:
        source, first = inspect.getsourcelines(written)
        tree = ast.parse(textwrap.dedent("".join(source)))
    except (OSError, SyntaxError):  # a lambda, or made without a file
        return ""
    named = [(getattr(node, "id", getattr(node, "attr", "")), node) for node in ast.walk(tree)]
    found = [(REAL_ONLY.index(name), name, node) for name, node in named if name in REAL_ONLY]
    if not found:
        return ""
    _, name, node = min(found, key=lambda suspect: suspect[0])
    return f"line {first + node.lineno - 1}: `{name}`"


def file_of(written: Callable[..., Any]) -> str:
    """The file that a function stands in."""
    code = getattr(written, "__code__", None)
    return code.co_filename if code else ""
