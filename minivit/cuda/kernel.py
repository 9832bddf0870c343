"""Compile and launch kernels; device functions that all kernels share.

A GPU executes threads in *warps* of 32 *lanes*. The lanes of a warp exchange values by shuffle
instructions, without memory. Where a layer reduces over a row, one warp processes the row: each
lane reads every 32nd entry, so that the reads are coalesced.
"""

from collections.abc import Callable
from typing import Any

import cupy  # pyright: ignore[reportMissingImports]

from ..arrays import Array

WARP = 32  # threads
WARPS_PER_BLOCK = 8
TYPES = {"float16": "__half", "float32": "float", "float64": "double"}
COMPUTED = {"float16": "float32", "float32": "float32", "float64": "float64"}  # as in PRELUDE

PRELUDE = r"""
#include <cuda_fp16.h>

// The type in which values of type T are computed: float16 is only a storage format.
template <typename T> struct Computed { using type = T; };
template <> struct Computed<__half> { using type = float; };
template <typename T> using computed = typename Computed<T>::type;

// Butterfly reductions: after five shuffles, every lane has the result of all 32 lanes.
template <typename F> __device__ F warp_sum(F x) {
    for (int far = 16; far > 0; far /= 2) x += __shfl_xor_sync(0xffffffff, x, far);
    return x;
}
template <typename F> __device__ F warp_max(F x) {
    for (int far = 16; far > 0; far /= 2) x = fmax(x, __shfl_xor_sync(0xffffffff, x, far));
    return x;
}

// The row of this warp; a warp without a row ends. The loop over the entries of a lane.
#define WARP_ROW(row, rows) \
    const long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y; \
    if (row >= rows) return
#define LANE_ENTRIES(j, n) long long j = threadIdx.x; j < n; j += 32
"""


class Kernel:
    """A kernel in CUDA C++, a template of one type T, which is the dtype of its first argument.

    Python integers are passed as `long long`, floats as `double`.
    """

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, PRELUDE + source
        self.compiled: dict[str, Any] = {}

    def launch(self, blocks: tuple[int, ...], threads: tuple[int, ...], *args: Any) -> None:
        """Compile the kernel if necessary and launch a grid of blocks, unless the grid is empty."""
        dtype = args[0].dtype.name
        if dtype not in self.compiled:
            name = f"{self.name}<{TYPES[dtype]}>"
            options = {"options": ("--std=c++17",), "name_expressions": (name,)}
            self.compiled[dtype] = cupy.RawModule(code=self.source, **options).get_function(name)
        if 0 not in blocks:
            self.compiled[dtype](blocks, threads, args)

    def launch_rows(self, rows: int, *args: Any) -> None:
        """Launch one warp for each row."""
        self.launch((-(-rows // WARPS_PER_BLOCK),), (WARP, WARPS_PER_BLOCK), *args)


def register(function: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate the version of a `singledispatch` function for CuPy arrays of the dtypes in TYPES.

    Other CuPy arrays, such as the gradient checker's complex ones, go to the readable version.
    """
    readable = function.dispatch(object)

    def decorate(faster: Callable[..., Any]) -> Callable[..., Any]:
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
    """Return an operand in contiguous memory. Raise ValueError for another dtype or shape.

    A kernel reads all operands with the dtype of x, and does not check bounds.
    """
    if (operand.dtype, operand.shape) != (x.dtype, shape):
        expected, found = f"{x.dtype} {shape}", f"{operand.dtype} {operand.shape}"
        raise ValueError(f"the kernel expects {expected}, not {found}")
    return cupy.ascontiguousarray(operand)
