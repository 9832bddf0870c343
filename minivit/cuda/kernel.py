"""Compile and launch kernels; device functions that all kernels share.

A GPU executes threads in *warps* of 32 *lanes*. The lanes of a warp exchange values by shuffle
instructions, without memory. Where a layer reduces over a row, one warp processes the row: each
lane reads every 32nd entry, so that the reads are coalesced.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import cupy

from ..arrays import Array

WARP = 32  # threads
WARPS_PER_BLOCK = 8
TYPES = {"float16": "__half", "float32": "float", "float64": "double"}
NULL = 0  # a null pointer

PRELUDE = r"""
#include <cuda_fp16.h>

// The type in which values of type T are computed: float16 is only a storage format.
template <typename T> struct Computed { using type = T; };
template <> struct Computed<__half> { using type = float; };
template <typename T> using computed = typename Computed<T>::type;

// Butterfly reductions: after five shuffles, every lane has the result of all 32 lanes.
template <typename F> __device__ F warp_sum(F x) {
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffff, x, offset);
    return x;
}

template <typename F> __device__ F warp_max(F x) {
    for (int offset = 16; offset > 0; offset /= 2)
        x = fmax(x, __shfl_xor_sync(0xffffffff, x, offset));
    return x;
}

// The row of this warp, and a loop over the entries of a row that this lane processes.
#define WARP_ROW (blockIdx.x * (long long)blockDim.y + threadIdx.y)
#define LANE_ENTRIES(j, n) long long j = threadIdx.x; j < n; j += 32
"""


class Kernel:
    """A kernel in CUDA C++, a template of one type T, which is the dtype of its first argument.

    Python integers are passed as `long long`, floats as `double`.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, PRELUDE + source
        self.compiled: dict[str, Any] = {}

    def compile(self, dtype: str) -> Any:
        """Return the kernel for a dtype, compiled at the first call."""
        if dtype not in self.compiled:
            name = f"{self.name}<{TYPES[dtype]}>"
            module = cupy.RawModule(
                code=self.source, options=("--std=c++17",), name_expressions=(name,)
            )
            self.compiled[dtype] = module.get_function(name)
        return self.compiled[dtype]

    def launch(self, blocks: tuple[int, ...], threads: tuple[int, ...], *args: Any) -> None:
        """Launch a grid of blocks. An empty grid, which CUDA rejects, launches nothing."""
        if 0 not in blocks:
            self.compile(args[0].dtype.name)(blocks, threads, args)

    def launch_rows(self, rows: int, *args: Any) -> None:
        """Launch one warp per row."""
        self.launch((-(-rows // WARPS_PER_BLOCK),), (WARP, WARPS_PER_BLOCK), *args)

    def launch_entries(self, entries: int, *args: Any) -> None:
        """Launch one thread per entry."""
        threads = WARP * WARPS_PER_BLOCK
        self.launch((-(-entries // threads),), (threads,), *args)


def register(function: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate the version of a `singledispatch` function for CuPy arrays.

    It receives arrays of the dtypes in TYPES. Other arrays, such as the complex arrays of the
    gradient checker, go to the readable version.
    """
    readable = function.dispatch(object)

    def decorate(faster: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(faster)
        def dispatch(x: Array, *args: Any, **kwargs: Any) -> Any:
            chosen = faster if x.dtype.name in TYPES else readable
            return chosen(x, *args, **kwargs)

        function.register(cupy.ndarray, dispatch)
        return faster

    return decorate


def as_rows(x: Array) -> Array:
    """Return x in contiguous memory, (..., n) -> (rows, n)."""
    return cupy.ascontiguousarray(x).reshape(-1, x.shape[-1])


def check_operand(operand: Array, x: Array, shape: tuple[int, ...]) -> Array:
    """Return an operand of a kernel in contiguous memory.

    A kernel reads every operand with the dtype of x and without bounds checks. Raises ValueError
    if the operand has another dtype or shape.
    """
    if operand.dtype != x.dtype or operand.shape != shape:
        found = f"{operand.dtype} {operand.shape}"
        raise ValueError(f"the kernel expects {x.dtype} {shape}, not {found}")
    return cupy.ascontiguousarray(operand)
