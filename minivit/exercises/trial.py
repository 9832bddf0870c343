"""A trial: compare the reader's function with the solution on one set of arguments."""

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
from ..checking.gradcheck import NOT_REPEATABLE, NOT_REUSABLE, LeafFunction, gradcheck
from ..tree import flatten

TOLERANCE = 1e-10  # of values and gradients, relative to the largest entry
COARSE = 1e-5  # central differences can detect larger errors than this
STEP, DIFFERENCE_TOLERANCE = 1e-5, 1e-7  # of central differences
# Functions that discard the imaginary part. The first one of this list in the code is reported.
REAL_ONLY = ("abs", "absolute", "fabs", "norm", "std", "var", "vdot", "conj", "real")

MODIFIED = (
    "{} is modified. Operations such as `-=`, `[...] =` and `out=` change the caller's array.\n"
    "Create a new array instead"
)
NOTE = (
    "The imaginary part of the input is lost{}, so the complex step cannot be used.\n"
    "Central differences confirm the gradients to {:.0e} instead of {:.0e}."
)


class CheckFailed(Exception):
    """A check failed. The message explains why."""


class Trial:
    """The checks on one set of arguments. Each check assumes that the previous ones passed."""

    def __init__(
        self,
        function: Callable[..., Any],
        solution: Callable[..., Any],
        expected: Callable[..., Any] | None,
        arguments: tuple,
    ) -> None:
        self.function, self.note = function, ""
        self.arguments = dict(zip(inspect.signature(solution).parameters, arguments, strict=False))
        result = solution(*self.copy_arguments())
        self.has_pullback = isinstance(result, tuple) and callable(result[-1])
        self.expected = result[0] if self.has_pullback else result
        if self.has_pullback:
            self.leaf_function = LeafFunction(function, arguments)
            self.dy = np.random.default_rng(0).normal(size=np.shape(self.expected))
            self.expected_gradients = result[1](self.dy.copy())
        if expected:
            self.expected = expected(*self.copy_arguments())

    def copy_arguments(self) -> list[Any]:
        """Return copies of the arguments, which the function may modify."""
        return list(deepcopy(self.arguments).values())

    def run(self) -> None:
        """Call the function."""
        self.value = self.function(*self.copy_arguments())

    def check_pair(self) -> None:
        """Check that the function returns a value and a function."""
        pair = self.value
        if not (isinstance(pair, tuple) and len(pair) == 2 and callable(pair[1])):
            question = "; is the last line `return y, pullback`?" if pair is None else ""
            text = f"it returns {describe_type(pair)}, expected (array, function)"
            raise CheckFailed(text + question)
        self.value, self.pullback = pair

    def check_shape(self) -> None:
        """Check the types, shapes and dtypes of the value or values."""
        if self.value is ...:
            raise CheckFailed("the value is still `...`; replace it with your computation")
        got, expected = describe_type(self.value), describe_type(self.expected)
        if got != expected:
            raise CheckFailed(f"the value is {got}, expected {expected}")
        for label, *pair in pair_values(self.value, self.expected):
            for name in ("shape", "dtype"):
                got, expected = (getattr(array, name) for array in pair)
                if got != expected:
                    raise CheckFailed(f"{label} has {name} {got}, expected {expected}")

    def check_value(self) -> None:
        """Check every entry up to rounding errors."""
        for label, got, expected in pair_values(self.value, self.expected):
            error = np.nan_to_num(abs(got - expected), nan=np.inf)
            wrong = ~(error <= TOLERANCE * abs(expected).max(initial=0))
            if wrong.any():
                worst = tuple(map(int, np.unravel_index(error.argmax(), error.shape)))
                a, b = got[worst], expected[worst]
                raise CheckFailed(
                    f"{label} is wrong in {wrong.sum()} of {wrong.size} entries. The largest error "
                    f"is at index {worst}:\n{a:.9g}, expected {b:.9g} (difference {abs(a - b):.1e})"
                )

    def check_gradient_shapes(self) -> None:
        """Check that the pullback returns arrays in the same structure as the solution."""
        self.gradients = deepcopy(self.pullback(self.dy.copy()))
        got, expected = describe_type(self.gradients), describe_type(self.expected_gradients)
        if got != expected:
            raise CheckFailed(f"the pullback returns {got}, expected {expected}")
        named = self.leaf_function.name_gradients
        correct = named(self.expected_gradients)
        for name, gradient in named(self.gradients).items():
            if gradient.shape != correct[name].shape:
                raise CheckFailed(explain_shape(name, gradient.shape, correct[name].shape))

    def check_repeated(self) -> None:
        """Check that another call gives the same results and that no argument is modified."""
        arguments = deepcopy(self.arguments)
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            value = self.function(*arguments.values())
            require_unchanged(self.arguments, arguments)
            if self.has_pullback:
                value, pullback = value
                dy = self.dy.copy()
                first, second = (self.leaf_function.name_gradients(pullback(dy)) for _ in range(2))
                require_unchanged(self.arguments | {"dy": self.dy}, arguments | {"dy": dy})
                for name, gradient in first.items():
                    if not np.array_equal(gradient, second.get(name, np.nan), equal_nan=True):
                        raise CheckFailed(f"{name}: {NOT_REUSABLE}")
        for _, got, again in pair_values(self.value, value):
            if not np.array_equal(got, again, equal_nan=True):
                raise CheckFailed(NOT_REPEATABLE)

    def check_gradients(self) -> None:
        """Check the gradients by the complex step or, if it fails, by central differences."""
        reason, explanation, worst = None, "", np.inf
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            try:
                errors = gradcheck(self.function, *self.copy_arguments(), tolerance=TOLERANCE)
                explanation, worst = errors.explanation, errors.worst
            except Exception as error:  # the reader's function may not support complex numbers
                reason = error
            if worst <= TOLERANCE:
                return
            if worst < COARSE:
                raise CheckFailed(explanation)
            by_differences = self.compare_with_differences()
        where = locate_complex_failure(self.function, reason)
        if by_differences:
            raise CheckFailed(by_differences if reason or where else explanation)
        self.note = NOTE.format(where and f" ({where})", DIFFERENCE_TOLERANCE, TOLERANCE)

    def compare_with_differences(self) -> str:
        """Explain the gradients that differ from central differences; "" if there are none."""
        analytic = self.leaf_function.name_gradients(self.gradients)
        numeric = {name: self.central_differences(name) for name in analytic}
        largest = max(abs(n).max(initial=0) for n in numeric.values())
        lines = []
        for name, n in numeric.items():
            scale = max(abs(n).max(initial=0), 1e-3 * largest)
            if not abs(analytic[name] - n).max(initial=0) <= DIFFERENCE_TOLERANCE * scale:
                lines.append(explain(name, analytic[name].ravel(), n.ravel(), n.shape, self.dy))
        return "\n".join(lines)

    def central_differences(self, name: str) -> Array:
        """Return the gradient of one argument by central differences."""
        numeric = np.empty(self.leaf_function.leaves[name].shape)
        for i in np.ndindex(numeric.shape):
            values = []
            for step in (STEP, -STEP):
                leaves = deepcopy(self.leaf_function.leaves)
                leaves[name][i] += step
                values.append(self.leaf_function(leaves)[0])
            numeric[i] = (self.dy * (values[0] - values[1])).sum() / (2 * STEP)
        return numeric


def describe_type(x: Any) -> str:
    """Describe the structure of a result: array, (array, function), {"scale": array}, ..."""
    if isinstance(x, (tuple, list)):
        items = ", ".join(map(describe_type, x))
        return f"({items})" if isinstance(x, tuple) else f"[{items}]"
    if isinstance(x, dict):
        items = (f'"{name}": {describe_type(x[name])}' for name in sorted(x, key=str))
        return "{" + ", ".join(items) + "}"
    if x is None or x is ...:
        return "None" if x is None else "..."
    if isinstance(x, (np.ndarray, np.generic)):
        return "array"
    return "function" if callable(x) else type(x).__name__


def describe_argument(name: str, argument: Any) -> str:
    """Describe an argument: the shape of an array, the name of a function, a number."""
    if isinstance(argument, np.ndarray):
        return f"{name} {argument.shape}"
    if isinstance(argument, (dict, list)):
        return name
    return f"{name} {getattr(argument, '__name__', argument)}"


def pair_values(got: Any, expected: Any) -> list[tuple[str, Array, Array]]:
    """Return (label, value, expected value) for one value or for a tuple of values."""
    if not isinstance(expected, tuple):
        return [("the value", got, expected)]
    labels = [f"value {i} of {len(expected)}" for i in range(1, len(expected) + 1)]
    return list(zip(labels, got, expected, strict=True))


def require_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raise CheckFailed if an array in a tree of arguments has changed."""
    flat = flatten(after)
    for name, leaf in flatten(before).items():
        if isinstance(leaf, np.ndarray) and not np.array_equal(leaf, flat[name], equal_nan=True):
            raise CheckFailed(MODIFIED.format(name))


def locate_complex_failure(function: Callable[..., Any], reason: Exception | None) -> str:
    """Return the line of the reader's code that discards the imaginary part, "" if not found."""
    if reason is not None:
        frames = traceback.extract_tb((reason.__cause__ or reason).__traceback__)
        frames = [frame for frame in frames if frame.filename == source_file(function)]
        if frames:
            return f"line {frames[-1].lineno}: `{frames[-1].line}`"
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError):  # a lambda, or code that is not in a file
        return ""
    lines_by_name = {}
    for node in ast.walk(tree):
        name = getattr(node, "id", getattr(node, "attr", ""))
        if name in REAL_ONLY and isinstance(node, ast.expr):
            lines_by_name.setdefault(name, first + node.lineno - 1)
    return next((f"line {lines_by_name[n]}: `{n}`" for n in REAL_ONLY if n in lines_by_name), "")


def source_file(function: Callable[..., Any]) -> str:
    """Return the path of the file that defines a function."""
    code = getattr(function, "__code__", None)
    return code.co_filename if code else ""
