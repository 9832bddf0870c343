"""An array as strict as one on a GPU: what fails there, or goes wrong in silence, fails here.

`StrictArray` wraps a NumPy array, and this module is its array module: `array_module(x)` finds
it, as it finds `cupy` for an array of CuPy. So the code under test runs on it as on a GPU, and

- an array of the host never mixes with it: `asarray` is the only way in, `.get()` the only way
  out, and both copy, as device memory is another memory;
- nothing reads it behind one's back: no `float`, `if`, `math.sqrt`, NumPy function or printing;
- it has no more functions, methods and keywords than the ones named here, which CuPy has too;
- a float32 never becomes a float64, and no float64 appears, unless a dtype is asked for;
- memory that was never written to holds NaN.

Iteration gives the rows of an array of two or more dimensions, as in `q, k, v = qkv`. CuPy would
walk through a vector as well, one kernel launch for each number: here that is refused. Python's
`sum` over rows is the same mistake, and gives itself away by starting with `0 + row`; its `max`
compares, which is a read.
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from types import EllipsisType
from typing import Any, NoReturn

import sys

import numpy as np


def _table(text: str) -> dict[str, list[str]]:
    """{name: keywords} from lines of `names: keywords`."""
    lines = [line.split(":") for line in text.strip().splitlines()]
    return {name: keywords.split() for names, keywords in lines for name in names.split()}


# What there is, with the keywords that CuPy has for it: no `where`, no `initial`, no `casting`.
ELEMENTWISE = _table("""
    absolute negative sign square sqrt exp expm1 log log1p sin cos tanh: out dtype
    add subtract multiply divide power minimum maximum: out dtype
    equal less greater logical_and logical_or logical_not isfinite isnan clip: out
    where:
""")
REDUCTIONS = _table("""
    sum mean prod: axis dtype out keepdims
    max min all any: axis out keepdims
    argmax argmin: axis
""")
FUNCTIONS = (
    ELEMENTWISE
    | REDUCTIONS
    | _table("""
    matmul: out
    concatenate stack: axis out
    expand_dims repeat squeeze take: axis
    ascontiguousarray broadcast_to moveaxis reshape swapaxes transpose tril triu:
    arange empty eye full ones zeros empty_like full_like ones_like zeros_like: dtype
""")
)
METHODS = REDUCTIONS | _table("""
    astype: copy
    clip copy fill ravel repeat reshape squeeze swapaxes transpose:
""")
METADATA = ("shape", "dtype", "ndim", "size", "itemsize", "nbytes", "strides")  # no look inside
VIEWS = ("T", "real", "imag")
CONSTANTS = ("float16", "float32", "float64", "int32", "int64", "bool_", "newaxis", "pi", "inf")

UNARY = ("neg", "pos", "abs", "invert")
BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
COMPARISONS = ("lt", "le", "eq", "ne", "gt", "ge")
HARMLESS = (
    bool,
    int,
    float,
    complex,
    str,
    type,
    slice,
    EllipsisType,
    type(None),
    np.dtype,
    np.generic,
)


class StrictArray:
    """A NumPy array that is accessible only through this module."""

    __module__ = __name__.rpartition(".")[2]  # a top-level module, for `array_module`
    __slots__ = ("_host",)
    __array_ufunc__ = None  # NumPy's operators step aside, and the reflected ones here refuse
    __hash__ = None

    def __init__(self, host: np.ndarray) -> None:
        self._host = host

    def get(self) -> np.ndarray:
        """The explicit download: a copy on the host."""
        return self._host.copy()

    def __getattr__(self, name: str) -> Any:
        # Only the names in the tables: `__array_interface__`, which is none of them, would hand
        # the memory over without a word.
        if name in METADATA:
            return getattr(self._host, name)
        if name in VIEWS:
            return _wrap(getattr(self._host, name))
        if name in METHODS:
            method = _checked(getattr(np.ndarray, name), METHODS[name])
            return lambda *args, **kwargs: method(self, *args, **kwargs)
        raise AttributeError(f"a strict array has no '{name}'")

    def __repr__(self) -> str:
        return f"StrictArray(shape={self.shape}, dtype={self.dtype})"

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator["StrictArray"]:
        if self.ndim < 2:
            raise TypeError("iterating over a vector reads it number by number")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> "StrictArray":
        return _checked(operator.getitem)(self, _index(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            raise TypeError("a list of numbers: upload it with asarray")
        _checked(operator.setitem)(self, _index(index), value)


def asarray(x: Any, dtype: Any = None) -> StrictArray:
    """The explicit upload, a copy: the only function that takes an array of the host."""
    if isinstance(x, StrictArray):
        return x if dtype is None else x.astype(dtype, copy=False)
    host = np.array(x, dtype=dtype)
    if host.dtype.kind not in "biufc":
        raise TypeError(f"a GPU holds no {host.dtype}")
    if dtype is None and host.dtype.kind in "fc" and not hasattr(x, "dtype"):
        raise TypeError("Python's floats would become float64: name a dtype")
    return StrictArray(host)


def _checked(
    function: Callable[..., Any], keywords: Iterable[str] = (), sequences: bool = True
) -> Callable[..., Any]:
    """The one mechanism: a NumPy function that takes and gives strict arrays, after all checks.

    sequences: whether an argument may be a list or tuple (a shape, or arrays to join). Where
    numbers are meant, it would be one more array of the host.
    """
    name = getattr(function, "__name__", "a function")

    def call(*args: Any, **kwargs: Any) -> Any:
        if unknown := kwargs.keys() - set(keywords):
            raise TypeError(f"CuPy's {name} has no keyword {', '.join(unknown)}")
        given = [*args, *kwargs.values()]
        if not sequences and any(isinstance(arg, (list, tuple)) for arg in given):
            raise TypeError(f"{name} was given a list of numbers: upload it with asarray")
        operands = list(_leaves(given))
        for leaf in operands:
            if not isinstance(leaf, (StrictArray, *HARMLESS)):
                raise TypeError(f"{name} was given a {type(leaf).__name__}: upload it with asarray")
        result = function(*_unwrap(args), **{key: _unwrap(arg) for key, arg in kwargs.items()})
        _check_precision(name, operands, result)
        return _wrap(result, operands)

    return call


def _check_precision(name: str, operands: list[Any], result: Any) -> None:
    """Refuse two float precisions in one operation, and one that nobody asked for."""
    dtypes = [x.dtype for x in operands if isinstance(x, (StrictArray, np.generic))]
    precisions = {np.finfo(dtype).dtype for dtype in dtypes if dtype.kind in "fc"}
    if len(precisions) > 1:
        raise TypeError(f"{name} mixes {' and '.join(map(str, precisions))}")
    dtype_is_named = any(isinstance(x, (str, type, np.dtype)) for x in operands)
    if dtype_is_named or not hasattr(result, "dtype") or result.dtype.kind not in "fc":
        return
    if np.finfo(result.dtype).dtype not in precisions:
        raise TypeError(f"{name} makes a {result.dtype} that nobody asked for: name a dtype")


def _leaves(args: Iterable[Any]) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, (list, tuple)):
            yield from _leaves(arg)
        else:
            yield arg


def _unwrap(arg: Any) -> Any:
    if isinstance(arg, (list, tuple)):
        return type(arg)(map(_unwrap, arg))
    return arg._host if isinstance(arg, StrictArray) else arg


def _wrap(result: Any, operands: Iterable[Any] = ()) -> Any:
    if isinstance(result, tuple):  # where(mask)
        raise TypeError("an array whose shape depends on numbers has to wait for the GPU")
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    for x in operands:
        if isinstance(x, StrictArray) and x._host is result:
            return x  # after `x += 1` and `out=x` it is still the same x
    return StrictArray(np.asarray(result))  # where NumPy gives a scalar, CuPy gives an array


def _index(index: Any) -> tuple[Any, ...]:
    index = index if isinstance(index, tuple) else (index,)
    if any(isinstance(i, (list, tuple)) for i in index):
        raise TypeError("an index that is a list would be uploaded at every use: use asarray")
    # With `...` at its end NumPy gives, as CuPy does, a view of a single entry and no copy.
    return index if any(i is Ellipsis for i in index) else (*index, ...)


def _refuse(reason: str) -> Callable[..., NoReturn]:
    def method(*args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(reason)

    return method


def _reflected(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    def swapped(array: Any, other: Any) -> Any:
        if name == "add" and type(other) is int and other == 0:
            raise TypeError("0 + array: Python's sum would add it up row by row, use .sum()")
        return operation(other, array)

    return swapped


def _add_operators() -> None:
    for name in UNARY + BINARY + COMPARISONS:
        operation = _checked(getattr(operator, f"__{name}__"), sequences=False)
        setattr(StrictArray, f"__{name}__", operation)
        if name in BINARY:
            in_place = _checked(getattr(operator, f"__i{name}__"), sequences=False)
            setattr(StrictArray, f"__r{name}__", _reflected(name, operation))
            setattr(StrictArray, f"__i{name}__", in_place)
    StrictArray.__imatmul__ = _refuse("CuPy has no @=")
    for name in ("bool", "array", "array_function"):  # `float` and the like need no refusal
        reason = f"__{name}__ would wait for the GPU and copy from it: say so with .get()"
        setattr(StrictArray, f"__{name}__", _refuse(reason))


def __getattr__(name: str) -> Any:
    """What this module offers as an array module: `strict.exp` and all others in the tables."""
    if name in CONSTANTS:
        return getattr(np, name)
    if name not in FUNCTIONS:
        raise AttributeError(f"a strict array module has no '{name}'")
    function = _unwritten(name) if name.startswith("empty") else getattr(np, name)
    return _checked(function, FUNCTIONS[name], sequences=name not in ELEMENTWISE)


def _unwritten(name: str) -> Callable[..., Any]:
    """`empty` and `empty_like` without the zeros that one is so often lucky to find there."""

    def create(*args: Any, **kwargs: Any) -> np.ndarray:
        host = getattr(np, name)(*args, **kwargs)
        host[...] = np.nan if host.dtype.kind in "fc" else 99
        return host

    create.__name__ = name
    return create


_add_operators()
ndarray = StrictArray

sys.modules.setdefault(__name__.rpartition(".")[2], sys.modules[__name__])
