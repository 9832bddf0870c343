"""Which module an array belongs to, and the few array operations that decide the speed.

A layer asks `xp = array_module(x)` and from then on does not know whether it runs on NumPy or on
CuPy. The sums below are matrix products with a vector of ones: BLAS reads a row several times
faster than `sum` and `mean` do, and a product, unlike `vdot`, never conjugates complex numbers.

Here and in the layers, what is a `singledispatch` has a faster version for the arrays of a GPU in
`minivit/cuda/`, in a file of the same name.
"""

import sys
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import numpy as np

BLOCK_SIZE = 1 << 16  # scalars: with fewer, two threads wait for Python more often
SMALL_PRODUCT = 1_000_000  # multiplications: up to here OpenBLAS has kernels of its own

Array = Any  # numpy.ndarray, cupy.ndarray, or anything that behaves like them
Pullback = Callable[..., Any]  # gradient of a value -> gradients of what it was computed from
Watch = Callable[[str, Array], None]  # is shown named intermediate arrays


def array_module(x: Array) -> Any:
    """The module whose functions work on x: numpy, or cupy for an array on a GPU."""
    return sys.modules[type(x).__module__.partition(".")[0]]


def device_of(x: Array) -> str:
    """The device of an array or a Python number: "cpu" or "gpu"."""
    return "gpu" if hasattr(x, "get") else "cpu"


def to_host(x: Array) -> Array:
    """x as a NumPy array: itself, or a copy if it lives on a GPU."""
    return x.get() if hasattr(x, "get") else x


@singledispatch
def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """Many small products at once, (..., n, m) @ (..., m, p), as attention needs them.

    BLAS is a third slower on a small product whose second factor is transposed: copy it first.
    """
    xp = array_module(a)
    if is_transposed(b) and a.shape[-2] * b.shape[-2] * b.shape[-1] <= SMALL_PRODUCT:
        b = xp.ascontiguousarray(b)
    return xp.matmul(a, b, out=out)


def is_transposed(x: Array) -> bool:
    """Whether x is a view in which neighbours in memory are neighbours in a column."""
    return x.ndim > 1 and x.strides[-2] == x.itemsize and x.shape[-1] > 1


def map_blocks(write: Callable[..., None], *arrays: Array) -> Array:
    """A new array filled by write(new, *arrays), entry by entry, in blocks that fit the cache.

    All arithmetic of `write_arrays` is done to one block before the next is fetched from memory: for
    ten operations on a large array that is twice as fast as ten passes over it. A GPU, which has
    no such cache, gets one block.
    """
    xp = array_module(arrays[0])
    inputs = [a.reshape(-1) for a in arrays]
    filled = xp.empty_like(inputs[0])
    size = BLOCK_SIZE if xp is np else max(filled.size, 1)
    for start in range(0, filled.size, size):
        block = slice(start, start + size)
        write(filled[block], *(a[block] for a in inputs))
    return filled.reshape(arrays[0].shape)


def dot_vector(x: Array, w: Array) -> Array:
    """The dot product of each row of x with one vector w, (..., D) and (D,) -> (..., 1)."""
    return (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], 1)


def sum_last(x: Array) -> Array:
    """(..., D) -> (..., 1)"""
    return dot_vector(x, array_module(x).ones(x.shape[-1], dtype=x.dtype))


def mean_last(x: Array) -> Array:
    """(..., D) -> (..., 1)"""
    return sum_last(x) / x.shape[-1]


def dot_rows(a: Array, b: Array) -> Array:
    """The dot product of each row of a with the same row of b, (..., D) -> (..., 1)."""
    return matmul(a[..., None, :], b[..., :, None])[..., 0]


@singledispatch
def sum_leading(x: Array) -> Array:
    """The sum of all rows, (..., D) -> (D,): how a bias, shared by all rows, gets its gradient."""
    rows = x.reshape(-1, x.shape[-1])
    return array_module(x).ones(len(rows), dtype=x.dtype) @ rows


def add_prefix(watch: Watch | None, prefix: str) -> Watch | None:
    """A watch that puts `prefix/` before every name, or None if nobody is watching."""
    return watch and (lambda name, array: watch(f"{prefix}/{name}", array))
