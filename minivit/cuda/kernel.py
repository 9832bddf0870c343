"""What all kernels have in common: how they are compiled and launched, and what a warp can do.

A GPU runs threads in *warps* of 32, which take every step together and can hand each other numbers
without going through memory. Wherever something is summed along a row, the row has one warp: each
of its threads, the *lanes*, takes every 32nd number.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import cupy

from ..arrays import Array

WARP = 32  # threads
WARPS = 8  # of a block, each with a row of its own
TYPES = {"float16": "__half", "float32": "float", "float64": "double"}
NULL = 0  # a pointer to nothing

PRELUDE = r"""
#include <cuda_fp16.h>

// What numbers of type T are computed in: float16 is a way to store them, no more.
template <typename T> struct Computed { using type = T; };
template <> struct Computed<__half> { using type = float; };
template <typename T> using computed = typename Computed<T>::type;

// Each lane gives a number, and each gets the sum of all 32. In five exchanges: with the lane 16
// places away, then 8, 4, 2 and 1.
template <typename F> __device__ F warp_sum(F x) {
    for (int far = 16; far > 0; far /= 2) x += __shfl_xor_sync(0xffffffff, x, far);
    return x;
}

template <typename F> __device__ F warp_max(F x) {
    for (int far = 16; far > 0; far /= 2) x = fmax(x, __shfl_xor_sync(0xffffffff, x, far));
    return x;
}

// The row of this warp, and of its numbers those that are this lane's.
#define WARP_ROW (blockIdx.x * (long long)blockDim.y + threadIdx.y)
#define LANE_NUMBERS(j, n) long long j = threadIdx.x; j < n; j += 32
"""


class Kernel:
    """A kernel in CUDA C++, a template of one type T: that of the first array it is given.

    Whole numbers arrive as `long long` and others as `double`.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, PRELUDE + source
        self.compiled: dict[str, Any] = {}

    def of(self, dtype: str) -> Any:
        """The kernel for arrays of this dtype, compiled when it is first asked for."""
        if dtype not in self.compiled:
            name = f"{self.name}<{TYPES[dtype]}>"
            how = {"options": ("--std=c++17",), "name_expressions": (name,)}
            self.compiled[dtype] = cupy.RawModule(code=self.source, **how).get_function(name)
        return self.compiled[dtype]

    def by_rows(self, rows: int, *args: Any) -> None:
        """A warp for each row."""
        self.launch((-(-rows // WARPS),), (WARP, WARPS), *args)

    def by_entries(self, entries: int, *args: Any) -> None:
        """A thread for each number."""
        threads = WARP * WARPS
        self.launch((-(-entries // threads),), (threads,), *args)

    def launch(self, blocks: tuple[int, ...], threads: tuple[int, ...], *args: Any) -> None:
        """So many blocks of so many threads. Nothing is launched where there is nothing to do."""
        if 0 not in blocks:
            self.of(args[0].dtype.name)(blocks, threads, args)


def replaces(function: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: what follows is the version of `function` for the arrays of CuPy.

    For those of floats, that is. The gradient checker's complex numbers stay with the plain one.
    """
    plain = function.dispatch(object)

    def register(faster: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(faster)
        def either(x: Array, *args: Any, **kwargs: Any) -> Any:
            chosen = faster if x.dtype.name in TYPES else plain
            return chosen(x, *args, **kwargs)

        function.register(cupy.ndarray, either)
        return faster

    return register


def rows_of(x: Array) -> Array:
    """(..., n) -> (rows, n), one after the other in memory as the kernels read them."""
    return cupy.ascontiguousarray(x).reshape(-1, x.shape[-1])


def read_with(x: Array, other: Array, shape: tuple[int, ...]) -> Array:
    """`other` as a kernel for x reads it, which goes by x alone: of its dtype, and of this shape.

    Raises ValueError if it is not.
    """
    if (other.dtype, other.shape) != (x.dtype, shape):
        wanted, given = f"{x.dtype} {shape}", f"{other.dtype} {other.shape}"
        raise ValueError(f"a kernel that reads {wanted} was given {given}")
    return cupy.ascontiguousarray(other)
