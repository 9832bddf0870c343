"""NumPy and CuPy arrays, and the array operations that determine the speed.

A layer calls `xp = array_module(x)` and then works with either module. The sums below are matrix
products with a vector of ones, because BLAS sums a row several times faster than `sum` and `mean`.
Unlike `vdot`, a product does not conjugate complex numbers.

Every `singledispatch` function, here and in `layers/`, has a faster version for GPU arrays in the
file of the same name in `cuda/`.
"""

import sys
from collections.abc import Callable
from functools import singledispatch, wraps
from typing import Any

import numpy as np

BLOCK_SIZE = 1 << 16  # scalars; with smaller blocks, two threads wait for the GIL more often
SMALL_PRODUCT = 1_000_000  # multiplications; OpenBLAS has separate kernels up to this number

Array = Any  # numpy.ndarray, cupy.ndarray, or any array with their interface
Pullback = Callable[..., Any]  # gradient w.r.t. a value -> gradients w.r.t. the inputs
Watch = Callable[[str, Array], None]  # receives named intermediate arrays


def array_module(x: Array) -> Any:
    """Return numpy, or cupy for an array on a GPU. Raises TypeError for any other object."""
    module = sys.modules[type(x).__module__.partition(".")[0]]
    if hasattr(module, "ndarray"):
        return module
    if isinstance(x, np.ndarray):  # a subclass in a module without array functions
        return np
    kind = f"{type(x).__module__}.{type(x).__name__}"
    raise TypeError(f"expected a NumPy or CuPy array, not {kind}: convert it with np.asarray")


def as_array(x: Any) -> Any:
    """Convert an ndarray subclass, or a tensor of another library, to an ndarray via `__array__`.

    Arrays on a GPU and objects without `__array__` are returned unchanged. Raises TypeError for a
    tensor that cannot be converted, and for a masked array.
    """
    if type(x) is np.ndarray or hasattr(x, "get") or not hasattr(x, "__array__"):
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("masked arrays are not supported: fill the masked entries with x.filled()")
    try:
        return np.asarray(x)
    except Exception as reason:  # for example a tensor on a GPU, or one that requires a gradient
        kind = f"{type(x).__module__}.{type(x).__name__}"
        raise TypeError(f"cannot convert {kind} to a NumPy array: {reason}") from None


def device_of(x: Array) -> str:
    """Return the device of an array or a Python number: "cpu" or "gpu"."""
    return "gpu" if hasattr(x, "get") else "cpu"


def to_host(x: Array) -> Array:
    """Return x as a NumPy array: x itself, or a copy if it is on a GPU."""
    return x.get() if hasattr(x, "get") else x


def widen_float16(layer: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a layer so that it computes float16 arrays in float32 and rounds its results.

    float16 has 11 significant bits and overflows above 65,504. Sums of squares, exponentials and
    polynomials need more than that. The CUDA kernels compute in float32 for the same reason.
    """

    @wraps(layer)
    def compute_in_float32(x: Array, *args: Any, **kwargs: Any) -> Any:
        if x.dtype.char != "e":  # "e" is NumPy's code for float16
            return layer(x, *args, **kwargs)
        out = kwargs.pop("out", None)
        wide_args = cast((x, *args), "e", "float32")
        value, pullback = layer(*wide_args, **cast(kwargs, "e", "float32"))
        y = cast(value, "f", "float16")
        if out is not None:
            out[...] = y

        def pullback_in_float32(*dy: Array) -> Any:
            return cast(pullback(*cast(dy, "e", "float32")), "f", "float16")

        return y if out is None else out, pullback_in_float32

    return compute_in_float32


def cast(tree: Any, char: str, dtype: str) -> Any:
    """Convert those arrays of a tree or tuple whose dtype has the one-letter code `char`."""
    if isinstance(tree, dict):
        return {name: cast(branch, char, dtype) for name, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(cast(branch, char, dtype) for branch in tree)
    return tree.astype(dtype) if getattr(tree, "dtype", np.dtype(bool)).char == char else tree


@singledispatch
def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """Multiply stacks of small matrices, as in attention:  (..., n, m) @ (..., m, p).

    BLAS is a third slower if the second factor of a small product is transposed, so this factor is
    copied first. float16 is multiplied in float32, because BLAS has no routine for it.
    """
    xp = array_module(a)
    if a.dtype.char == "e":
        y = xp.matmul(a.astype("float32"), b.astype("float32")).astype("float16")
        if out is None:
            return y
        out[...] = y
        return out
    transposed = b.strides[-2] == b.itemsize and b.shape[-1] > 1  # column-major order
    if transposed and a.shape[-2] * b.shape[-2] * b.shape[-1] <= SMALL_PRODUCT:
        b = xp.ascontiguousarray(b)
    return xp.matmul(a, b, out=out)


def map_blocks(write: Callable[..., None], *arrays: Array) -> Array:
    """Return a new array, filled by write(result, *arrays) in blocks that fit the CPU cache.

    `write` computes an elementwise function. Completing all of its operations on one block before
    the next takes half the time of separate passes over large arrays. A GPU uses a single block.
    """
    xp = array_module(arrays[0])
    inputs = [a.reshape(-1) for a in arrays]
    result = xp.empty_like(inputs[0])
    size = BLOCK_SIZE if xp is np else max(result.size, 1)
    for start in range(0, result.size, size):
        block = slice(start, start + size)
        write(result[block], *(a[block] for a in inputs))
    return result.reshape(arrays[0].shape)


def dot_vector(x: Array, w: Array) -> Array:
    """Dot product of each row of x with the vector w, (..., D) and (D,) -> (..., 1)."""
    return (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], 1)


def sum_last(x: Array) -> Array:
    """Sum over the last axis, (..., D) -> (..., 1)."""
    return dot_vector(x, array_module(x).ones(x.shape[-1], dtype=x.dtype))


def mean_last(x: Array) -> Array:
    """Mean over the last axis, (..., D) -> (..., 1)."""
    return sum_last(x) / x.shape[-1]


def dot_rows(a: Array, b: Array) -> Array:
    """Dot product of each row of a with the same row of b, (..., D) -> (..., 1)."""
    return matmul(a[..., None, :], b[..., :, None])[..., 0]


@singledispatch
def sum_leading(x: Array) -> Array:
    """Sum over all axes but the last, (..., D) -> (D,). This is the gradient of a bias."""
    rows = x.reshape(-1, x.shape[-1])
    return array_module(x).ones(len(rows), dtype=x.dtype) @ rows


def add_prefix(watch: Watch | None, prefix: str) -> Watch | None:
    """Return a callback that prepends `prefix/` to every name, or None if `watch` is None."""
    return watch and (lambda name, array: watch(f"{prefix}/{name}", array))
