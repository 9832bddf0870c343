"""An array with the restrictions of a CuPy array, so that GPU code can be tested without a GPU.

`StrictArray` wraps a NumPy array, and this module is its array module: `array_module(x)` returns it
as it returns `cupy` for a CuPy array. The differences from NumPy are:

- Only `asarray` uploads and only `.get()` downloads. Both copy. Operations reject host arrays.
- `float`, `if`, `math.sqrt`, NumPy functions and printing do not read values.
- Only the functions, methods and keywords in the tables below exist. CuPy has all of them.
- float32 does not become float64, and no array is float64 unless a dtype is named.
- Uninitialised memory contains NaN.

Iteration yields the rows of an array of two or more dimensions, as in `q, k, v = qkv`. CuPy also
iterates over vectors, with one kernel launch per entry; here that is an error.
"""

import operator
import sys

import numpy as np


def parse_table(text):
    """Return {name: keywords} from lines of the form `names: keywords`."""
    lines = [line.split(":") for line in text.strip().splitlines()]
    return {name: keywords.split() for names, keywords in lines for name in names.split()}


# The keywords of CuPy: no `where`, no `initial`, no `casting`.
ELEMENTWISE = parse_table("""
    absolute negative sign square sqrt exp expm1 log log1p sin cos tanh: out dtype
    add subtract multiply divide power minimum maximum: out dtype
    equal less greater logical_and logical_or logical_not isfinite isnan clip: out
    where:
""")
REDUCTIONS = parse_table("""
    sum mean prod: axis dtype out keepdims
    max min all any: axis out keepdims
    argmax argmin: axis
""")
FUNCTIONS = ELEMENTWISE | REDUCTIONS
FUNCTIONS |= parse_table("""
    matmul: out
    concatenate stack: axis out
    expand_dims repeat squeeze take: axis
    ascontiguousarray broadcast_to moveaxis reshape swapaxes transpose tril triu:
    arange empty eye full ones zeros empty_like full_like ones_like zeros_like: dtype
""")
METHODS = REDUCTIONS | parse_table("""
    astype: copy
    argsort clip copy fill ravel repeat reshape squeeze swapaxes transpose:
""")
METADATA = ("shape", "dtype", "ndim", "size", "itemsize", "nbytes", "strides")
VIEWS = ("T", "real", "imag")
CONSTANTS = ("float16", "float32", "float64", "int32", "int64", "bool_", "newaxis", "pi", "inf")

BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
OTHER_OPERATORS = ("neg", "pos", "abs", "invert", "lt", "le", "eq", "ne", "gt", "ge")
HOST_SCALARS = (
    bool, int, float, complex, str, type, slice, type(...), type(None), np.dtype, np.generic,
)  # fmt: skip


class StrictArray:
    """A NumPy array that is accessible only through this module."""

    __module__ = "strict"  # a top-level module, as `array_module` expects
    __slots__ = ("_host",)
    __array_ufunc__ = None  # NumPy's operators return NotImplemented, and ours raise TypeError
    __hash__ = None

    def __init__(self, host):
        self._host = host

    def get(self):
        """Return a copy on the host."""
        return self._host.copy()

    def __getattr__(self, name):  # no `__array_interface__`, which would expose the memory
        if name in METADATA:
            return getattr(self._host, name)
        if name in VIEWS:
            return wrap(getattr(self._host, name), [self])
        if name in METHODS:
            method = check_calls(getattr(np.ndarray, name), METHODS[name])
            return lambda *args, **kwargs: method(self, *args, **kwargs)
        raise AttributeError(f"a strict array has no '{name}'")

    def __repr__(self):
        return f"StrictArray(shape={self.shape}, dtype={self.dtype})"

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        if self.ndim < 2:
            raise TypeError("iterating over a vector would launch one kernel per entry")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        return check_calls(operator.getitem)(self, check_index(index))

    def __setitem__(self, index, value):
        if isinstance(value, (list, tuple)):
            raise TypeError("a list of numbers: upload it with asarray")
        check_calls(operator.setitem)(self, check_index(index), value)


def asarray(x, dtype=None, array_type=StrictArray):
    """Copy to the device. No other function accepts host arrays."""
    if isinstance(x, StrictArray):
        return x if dtype is None else x.astype(dtype, copy=False)
    host = np.array(x, dtype=dtype)
    if host.dtype.kind not in "biufc":
        raise TypeError(f"CuPy does not support {host.dtype}")
    if dtype is None and host.dtype.kind in "fc" and not hasattr(x, "dtype"):
        raise TypeError("Python's floats would become float64: name a dtype")
    return array_type(host)


def check_calls(function, keywords=(), sequences=True, array_type=StrictArray):
    """Make a NumPy function take and return strict arrays, and check all arguments.

    sequences: whether an argument may be a list or tuple (a shape, or arrays to join). Otherwise it
    would be a host array. array_type: the type of the results if no argument is a strict array.
    """
    name = getattr(function, "__name__", "a function")

    def call(*args, **kwargs):
        if unknown := kwargs.keys() - set(keywords):
            raise TypeError(f"CuPy's {name} has no keyword {', '.join(unknown)}")
        arguments = [*args, *kwargs.values()]
        if not sequences and any(isinstance(arg, (list, tuple)) for arg in arguments):
            raise TypeError(f"{name} received a list of numbers: upload it with asarray")
        operands = list(flatten_sequences(arguments))
        for operand in operands:
            if not isinstance(operand, (StrictArray, *HOST_SCALARS)):
                raise TypeError(f"{name} received {type(operand).__name__}: upload with asarray")
        result = function(*unwrap(args), **{key: unwrap(arg) for key, arg in kwargs.items()})
        check_precision(name, operands, result)
        return wrap(result, operands, array_type)

    return call


def check_precision(name, operands, result):
    """Raise TypeError if precisions are mixed, or if the result is float64 by default."""
    dtypes = [x.dtype for x in operands if isinstance(x, (StrictArray, np.generic))]
    precisions = {np.finfo(dtype).dtype for dtype in dtypes if dtype.kind in "fc"}
    if len(precisions) > 1:
        raise TypeError(f"{name} mixes {' and '.join(map(str, precisions))}")
    named = any(isinstance(x, (str, type, np.dtype)) for x in operands)
    if named or not hasattr(result, "dtype") or result.dtype.kind not in "fc":
        return
    if np.finfo(result.dtype).dtype not in precisions:
        raise TypeError(f"{name} creates {result.dtype} by default: name a dtype")


def flatten_sequences(args):
    for arg in args:
        if isinstance(arg, (list, tuple)):
            yield from flatten_sequences(arg)
        else:
            yield arg


def unwrap(arg):
    if isinstance(arg, (list, tuple)):
        return type(arg)(map(unwrap, arg))
    return arg._host if isinstance(arg, StrictArray) else arg


def wrap(result, operands, array_type=StrictArray):
    if isinstance(result, tuple):  # of where(mask)
        raise TypeError("the shape of the result depends on values, which waits for the GPU")
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    arrays = [x for x in operands if isinstance(x, StrictArray)]
    for x in arrays:
        if x._host is result:
            return x  # the same object after `x += 1` or with `out=x`
    # Where NumPy returns a scalar, CuPy returns an array without axes.
    return (type(arrays[0]) if arrays else array_type)(np.asarray(result))


def check_index(index):
    index = index if isinstance(index, tuple) else (index,)
    if any(isinstance(i, (list, tuple)) for i in index):
        raise TypeError("a list as an index would be uploaded at every use: use asarray")
    # With `...` at the end, NumPy returns a view of a single entry, as CuPy does.
    return index if any(i is Ellipsis for i in index) else (*index, ...)


def get_attribute(name, array_type=StrictArray):
    """Return a function or constant of an array module with arrays of this type."""
    if name in CONSTANTS:
        return getattr(np, name)
    if name not in FUNCTIONS:
        raise AttributeError(f"a strict array module has no '{name}'")
    function = fill_with_nan(name) if name.startswith("empty") else getattr(np, name)
    return check_calls(function, FUNCTIONS[name], name not in ELEMENTWISE, array_type)


def fill_with_nan(name):
    def create(*args, **kwargs):
        host = getattr(np, name)(*args, **kwargs)
        host[...] = np.nan if host.dtype.kind in "fc" else 99
        return host

    create.__name__ = name
    return create


def define_operators():
    def reflect(operation, name):
        def reflected(array, other):
            if name == "add" and type(other) is int and other == 0:
                raise TypeError("0 + array: Python's sum would add row by row, use .sum()")
            return operation(other, array)

        return reflected

    def refuse(reason):
        def refused(*args, **kwargs):
            raise TypeError(reason)

        return refused

    for name in BINARY + OTHER_OPERATORS:
        operation = check_calls(getattr(operator, f"__{name}__"), sequences=False)
        setattr(StrictArray, f"__{name}__", operation)
        if name in BINARY:
            in_place = check_calls(getattr(operator, f"__i{name}__"), sequences=False)
            setattr(StrictArray, f"__r{name}__", reflect(operation, name))
            setattr(StrictArray, f"__i{name}__", in_place)
    StrictArray.__imatmul__ = refuse("CuPy has no @=")
    for name in ("bool", "array", "array_function"):
        reason = f"__{name}__ would wait for the GPU and copy implicitly: use .get()"
        setattr(StrictArray, f"__{name}__", refuse(reason))


define_operators()
__getattr__ = get_attribute
ndarray = StrictArray
sys.modules.setdefault("strict", sys.modules[__name__])
