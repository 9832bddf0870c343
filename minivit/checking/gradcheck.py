"""The gradient checker: compare a pullback with the derivative of its function.

The derivative is computed by the *complex step*. A function built from +, *, exp and the like
accepts complex arrays, and a small imaginary step h along v gives

    Im f(x + i h v) / h  =  derivative of f along v  +  O(h²)

There is no subtraction, so no digits cancel, and h = 1e-20 gives the derivative to machine
precision. Central differences have a relative error of about 1e-9.
"""

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array, array_module, to_host
from ..tree import Tree, flatten, unflatten
from .explain import explain, explain_shape

STEP = 1e-20
TOLERANCE = 1e-12
Leaves = dict[str, Array]

NOT_COMPLEX_SAFE = (
    "f loses the imaginary part of its input, which carries the derivative. Do not use abs, var, "
    "float or arrays of a real dtype, and compare only .real"
)
NOT_REPEATABLE = (
    "f returns another value when it is called again with the same arguments. Create random "
    "generators inside f, and do not modify the arguments"
)
NOT_REUSABLE = (
    "the pullback returns another gradient when it is called again. Does it modify an array that "
    "it captured?"
)


class GradientReport(dict[str, float]):
    """{argument: worst relative error}. Its text is a table with a verdict and explanations."""

    def __init__(self, errors: dict[str, float], explanation: str, tolerance: float) -> None:
        super().__init__(errors)
        self.explanation = explanation
        self.tolerance = tolerance

    @property
    def worst(self) -> float:
        """The largest error of all arguments."""
        return max(self.values())

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance."""
        return self.worst <= self.tolerance

    def __str__(self) -> str:
        names = ["argument", *self]
        width, wrong = max(map(len, names)), 0
        lines = [f"{'argument':{width}}  error"]
        for name, error in self.items():
            correct = error <= self.tolerance
            wrong += not correct
            lines.append(f"{name:{width}}  {error:.1e}  {'ok' if correct else 'wrong'}")
        verdict = f"failed: {wrong} of {len(self)} gradients wrong" if wrong else "passed"
        lines.append(f"{verdict} (tolerance {self.tolerance:.0e})")
        return "\n".join([*lines, *self.explanation.splitlines()])

    __repr__ = __str__


def gradcheck(
    f: Callable[..., Any],
    *args: Tree,
    directions: int | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> GradientReport:
    """Compare a pullback with the complex-step derivative of its function.

    Parameters
    ----------
    f : callable
        Function that returns `(value, pullback)`. It must accept complex arrays. The pullback
        returns the gradient of each argument in order. It may return the gradients of parameters
        in a final dict, which may be empty: `(dx, {name: gradient})`.
    *args : array or tree of arrays
        Arguments of `f`. The derivatives are evaluated at this point, in float64. Arguments
        without floating-point arrays (integers, labels, strings, None) are passed on unchanged.
    directions : int, optional
        Number of random directions per argument. By default, every entry is perturbed separately.
    tolerance : float, optional
        Largest relative error that counts as correct.
    seed : int, optional
        Seed of the random cotangent and of the directions.

    Returns
    -------
    GradientReport
        The worst relative error of each argument, with an explanation of every failure. The errors
        of an argument are divided by its largest derivative, or by 1e-3 of the largest derivative
        of all arguments if that is larger.

    Raises
    ------
    TypeError
        If `f` does not return a value and a pullback, does not support complex arrays, is not
        repeatable or modifies its arguments, or if no argument is a floating-point array.
    ValueError
        If `directions` is less than 1.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(2, 5))
    >>> gradcheck(minivit.layers.softmax, x).passed
    True

    References
    ----------
    W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real functions",
    SIAM Review 40(1), 1998.
    """
    if directions is not None and directions < 1:
        raise ValueError(f"directions must be at least 1, not {directions}")
    function = LeafFunction(f, args)
    rng = np.random.default_rng(seed)
    value, dy, gradients, failures = _evaluate(function, rng)
    derivatives = {}  # by argument: analytic and numeric
    for name, leaf in function.leaves.items():
        if directions is None:
            steps = (np.eye(1, leaf.size, i).reshape(leaf.shape) for i in range(leaf.size))
            analytic = gradients[name].ravel()
        else:
            steps = [rng.normal(size=leaf.shape) for _ in range(directions)]
            analytic = np.array([(gradients[name] * v).sum() for v in steps])
        numeric = [_complex_step(function, name, v, value, dy) for v in steps]
        derivatives[name] = analytic, np.array(numeric)

    largest = max(abs(numeric).max(initial=0) for _, numeric in derivatives.values())
    errors = {}
    for name, (analytic, numeric) in derivatives.items():
        scale = max(abs(numeric).max(initial=0), 1e-3 * largest)
        error = float(abs(analytic - numeric).max(initial=0) / (scale or 1))
        errors[name] = error if math.isfinite(error) else math.inf
        if errors[name] > tolerance and name not in failures:
            shape = function.leaves[name].shape if directions is None else None
            failures[name] = explain(name, analytic, numeric, shape, dy)
    explanation = "\n".join(failures[name] for name in errors if name in failures)
    return GradientReport(errors, explanation, tolerance)


class LeafFunction:
    """f as a function of its floating-point arrays, {name: array in float64}."""

    def __init__(self, f: Callable[..., Any], args: tuple[Tree, ...]) -> None:
        self.f = f
        self.args = dict(zip(_argument_names(f, len(args)), args, strict=True))
        trees = {
            name: arg
            for name, arg in self.args.items()
            if any(map(_is_float_array, flatten(arg).values()))
        }
        self.inputs, self.flat = list(trees), flatten(trees)
        floats = {name: leaf for name, leaf in self.flat.items() if _is_float_array(leaf)}
        if not floats:
            raise TypeError("nothing to differentiate: no argument is a floating-point array")
        self.xp = array_module(next(iter(floats.values())))
        self.leaves = {name: to_host(leaf).astype("float64") for name, leaf in floats.items()}

    def __call__(self, leaves: Leaves) -> Any:
        """Call f with these arrays in place of the original ones."""
        arrays = {name: self.xp.asarray(leaf) for name, leaf in leaves.items()}
        trees = unflatten({**self.flat, **arrays})
        return self.f(*(trees.get(name, arg) for name, arg in self.args.items()))

    def name_gradients(self, result: Any) -> Leaves:
        """Copy the gradients that a pullback returned into {name of the leaf: gradient}."""
        results = result if isinstance(result, tuple) else (result,)
        named = {}
        if isinstance(results[-1], dict) and set(results[-1]) <= set(self.inputs):
            named, results = results[-1], results[:-1]  # (dx, {name: gradient})
        unnamed = [name for name in self.inputs if name not in named]
        flat = flatten(dict(zip(unnamed, results, strict=False)) | named)
        return {name: np.array(to_host(leaf)) for name, leaf in flat.items() if leaf is not None}


def _evaluate(
    function: LeafFunction, rng: np.random.Generator
) -> tuple[Array, Array, Leaves, dict[str, str]]:
    """Return the value, a random cotangent, the gradients, and {name: why it is invalid}."""
    leaves = function.leaves
    point = {name: leaf.copy() for name, leaf in leaves.items()}
    result = function(point)
    if not (isinstance(result, tuple) and len(result) == 2 and callable(result[1])):
        raise TypeError("f must return (value, pullback)")
    y, pullback = result
    if not _is_float_array(y):
        raise TypeError(f"the value must be a floating-point array, not {type(y).__name__}")
    value = np.array(to_host(y))  # a copy, because f may modify its value later
    dy = rng.normal(size=value.shape)
    dy1, dy2 = (array_module(y).asarray(dy.copy()) for _ in range(2))
    gradients = function.name_gradients(pullback(dy1))
    repeated = function.name_gradients(pullback(dy2))
    for name, after in {**point, "dy": dy1}.items():
        if not np.array_equal(to_host(after), leaves.get(name, dy), equal_nan=True):
            raise TypeError(f"f or its pullback modifies {name}. Write to a new array instead")

    failures = {}
    for name, leaf in leaves.items():
        if name not in gradients:
            failures[name] = f"{name}: the pullback returns no gradient"
        elif gradients[name].shape != leaf.shape:
            failures[name] = explain_shape(name, gradients[name].shape, leaf.shape)
        elif not np.array_equal(gradients[name], repeated.get(name, np.nan), equal_nan=True):
            failures[name] = f"{name}: {NOT_REUSABLE}"
    gradients |= {name: np.full(leaves[name].shape, np.nan) for name in failures}
    return value, dy, gradients, failures


def _complex_step(function: LeafFunction, name: str, v: Array, value: Array, dy: Array) -> float:
    """Return the derivative of sum(dy * value) along v in one leaf."""
    point = {n: leaf.astype("complex128") for n, leaf in function.leaves.items()}
    point[name] += 1j * STEP * v
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        try:
            y = to_host(function(point)[0])
        except (np.exceptions.ComplexWarning, TypeError) as reason:
            raise TypeError(f"{NOT_COMPLEX_SAFE} ({reason})") from reason
    if not np.iscomplexobj(y):
        raise TypeError(NOT_COMPLEX_SAFE)
    if not np.allclose(y.real, value, rtol=1e-9, atol=1e-9 * abs(value).max(initial=0)):
        raise TypeError(NOT_REPEATABLE)
    return (dy * y.imag).sum() / STEP


def _argument_names(f: Callable[..., Any], count: int) -> list[str]:
    parameters = inspect.signature(f).parameters.values()
    names = [p.name for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD][:count]
    return names + [f"argument {i}" for i in range(len(names), count)]


def _is_float_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape") and leaf.dtype.kind in "fc"
