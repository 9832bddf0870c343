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
    for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffff, x, mask);
    return x;
}
template <typename F> __device__ F warp_max(F x) {
    for (int mask = 16; mask > 0; mask /= 2) x = fmax(x, __shfl_xor_sync(0xffffffff, x, mask));
    return x;
}

// WARP_ROW declares the row of this warp, and ends a warp without one. LANE_ENTRIES is the header
// of a loop over the entries of a lane.
#define WARP_ROW(row, rows) \
    const long long row = blockIdx.x * (long long)blockDim.y + threadIdx.y; \
    if (row >= rows) return
#define LANE_ENTRIES(j, n) long long j = threadIdx.x; j < n; j += 32
"""


class Kernel:
    """A CUDA kernel: a template whose type T is the dtype of the first argument.

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
    """Return a decorator that registers the CUDA version of a `singledispatch` function.

    CuPy arrays of another dtype than those in TYPES, such as the complex arrays of the gradient
    checker, still use the readable version.
    """
    readable = function.dispatch(object)

    def decorate(version: Callable[..., Any]) -> Callable[..., Any]:
        @function.register(cupy.ndarray)
        def dispatch(x: Array, *args: Any, **kwargs: Any) -> Any:
            return (version if x.dtype.name in TYPES else readable)(x, *args, **kwargs)

        return version

    return decorate


def as_rows(x: Array) -> Array:
    """Return x as a contiguous matrix, (..., n) -> (rows, n)."""
    return cupy.ascontiguousarray(x).reshape(-1, x.shape[-1])


def check_operand(operand: Array, x: Array, shape: tuple[int, ...]) -> Array:
    """Return a contiguous operand. Raise ValueError unless it has the dtype of x and this shape.

    A kernel assumes that all operands have the dtype of x, and does not check bounds.
    """
    if (operand.dtype, operand.shape) != (x.dtype, shape):
        actual = f"{operand.dtype} {operand.shape}"
        raise ValueError(f"the kernel expects {x.dtype} {shape}, not {actual}")
    return cupy.ascontiguousarray(operand)
