"""Products by cuBLAS, on arrays as they lie; and sums over rows.

CuPy's own product of many matrices copies an operand that is a view, and widens float16 before it
multiplies. cuBLAS needs neither: it is told for each operand how far it is from one row to the
next, whether it lies by columns instead, and how far it is from one matrix to the next. So q, k
and v are read out of the one array that holds all three, and their gradients are written into one
like it.
"""

from itertools import product as places_in

import cupy
import numpy as np

from ..arrays import Array, matmul, sum_leading
from .kernel import WARP, Kernel, replaces, rows_of

cublas, runtime = cupy.cuda.cublas, cupy.cuda.runtime

STORED = {
    "float16": runtime.CUDA_R_16F,
    "float32": runtime.CUDA_R_32F,
    "float64": runtime.CUDA_R_64F,
}
ADDED_UP = {  # float16 in float32, too
    "float16": cublas.CUBLAS_COMPUTE_32F,
    "float32": cublas.CUBLAS_COMPUTE_32F,
    "float64": cublas.CUBLAS_COMPUTE_64F,
}
READ_AS = {  # how products read float32: as it is, or with 10 or 7 binary digits behind the point
    "float32": cublas.CUBLAS_COMPUTE_32F,
    "tf32": cublas.CUBLAS_COMPUTE_32F_FAST_TF32,
    "bfloat16": cublas.CUBLAS_COMPUTE_32F_FAST_16BF,
}
# cuBLAS computes alpha a b + beta y, and reads both factors from the host's memory.
ALPHA = {"float16": np.ones(1, np.float32), "float32": np.ones(1, np.float32)}
ALPHA["float64"] = np.ones(1, np.float64)
BETA = {dtype: 0 * one for dtype, one in ALPHA.items()}


def set_matmul_precision(precision: str) -> None:
    """From now on products of float32 arrays read them so: see `devices.multiply_in`."""
    if precision not in READ_AS:
        raise ValueError(f"unknown precision {precision!r}: choose {', '.join(READ_AS)}")
    ADDED_UP["float32"] = READ_AS[precision]


@replaces(matmul)
def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """(..., n, m) @ (..., m, p)  ->  (..., n, p), written to `out` if it is given.

    Nothing is copied whose rows or columns lie one number after the other. Raises ValueError for
    shapes or dtypes that do not fit.
    """
    (n, m), (m_too, p) = a.shape[-2:], b.shape[-2:]
    if m != m_too or a.dtype != b.dtype:
        raise ValueError(f"no product of {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    many = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    fits = out is not None and lies(out)[0] == cublas.CUBLAS_OP_N
    y = out if fits else cupy.empty((*many, n, p), dtype=a.dtype)
    if m and y.size:
        gemm(*(readable(x, many) for x in (a, b)), y)
    elif y.size:
        y.fill(0)
    if out is None or fits:
        return y
    out[...] = y
    return out


def readable(x: Array, many: tuple[int, ...]) -> Array:
    """So many of its matrices; a copy only if they lie neither by rows nor by columns."""
    if lies(x)[0] is None:
        x = cupy.ascontiguousarray(x)
    return x if x.shape[:-2] == many else cupy.broadcast_to(x, (*many, *x.shape[-2:]))


def lies(x: Array) -> tuple[int | None, int]:
    """How the matrices of x lie, in cuBLAS's words: as they are (N) by rows, or by columns (T);
    and the numbers from one row, or column, to the next. None if neither."""
    (n, m), (down, along) = x.shape[-2:], x.strides[-2:]
    one = x.itemsize
    if (along == one or m == 1) and (n == 1 or down >= m * one):
        return cublas.CUBLAS_OP_N, max(m, down // one if n > 1 else 1)
    if (down == one or n == 1) and (m == 1 or along >= n * one):
        return cublas.CUBLAS_OP_T, max(n, along // one if m > 1 else 1)
    return None, 0


def gemm(a: Array, b: Array, y: Array) -> None:
    """y = a b for all matrices: in one call where all three have one distance from each to the
    next, else in one for each place on the shorter axes."""
    # cuBLAS goes by columns. What lies by rows it takes for the transpose: yᵀ = bᵀ aᵀ.
    (turn_b, from_b), (turn_a, from_a), (_, from_y) = lies(b), lies(a), lies(y)
    (n, m), p, one = a.shape[-2:], b.shape[-1], a.itemsize
    stored, added = STORED[a.dtype.name], ADDED_UP[a.dtype.name]
    alpha, beta = ALPHA[a.dtype.name].ctypes.data, BETA[a.dtype.name].ctypes.data
    *outer, (many, *steps) = sorted([(1, 0, 0, 0), *axes_in_front(a, b, y)])
    step_a, step_b, step_y = (step // one for step in steps)
    handle = cupy.cuda.device.get_cublas_handle()
    for place in places_in(*(range(axis[0]) for axis in outer)):
        at_a, at_b, at_y = (
            x.data.ptr + sum(i * axis[k] for i, axis in zip(place, outer, strict=True))
            for k, x in enumerate((a, b, y), 1)
        )
        cublas.gemmStridedBatchedEx(
            handle, turn_b, turn_a, p, n, m, alpha,
            at_b, stored, from_b, step_b,
            at_a, stored, from_a, step_a,
            beta, at_y, stored, from_y, step_y,
            many, added, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip


def axes_in_front(a: Array, b: Array, y: Array) -> list[tuple[int, int, int, int]]:
    """The axes before the matrices, each as (n, bytes from one to the next in a, b and y).

    Two are one where in all three a step on the outer is n steps on the inner.
    """
    axes: list[tuple[int, int, int, int]] = []
    strides = (x.strides[:-2] for x in (a, b, y))
    for n, *steps in zip(y.shape[:-2], *strides, strict=True):
        if n == 1:
            continue
        if axes and all(o == n * i for o, i in zip(axes[-1][1:], steps, strict=True)):
            axes[-1] = axes[-1][0] * n, *steps
        else:
            axes.append((n, *steps))
    return axes


# Each thread walks down a column, and 32 of them, a block's, share one out. What they find is added
# up in the block's own memory, in an order that is always the same.
SUMS = Kernel(
    "column_sums",
    r"""
template <typename T>
__global__ void column_sums(const T* x, T* sums, long long rows, long long n) {
    using F = computed<T>;
    __shared__ F found[32][33];                               // 33: no two lanes in one bank
    const long long j = blockIdx.x * 32ll + threadIdx.x;
    F sum = 0;
    if (j < n)
        for (long long i = blockIdx.y * 32ll + threadIdx.y; i < rows; i += gridDim.y * 32ll)
            sum += F(x[i * n + j]);
    found[threadIdx.x][threadIdx.y] = sum;
    __syncthreads();
    sum = warp_sum(found[threadIdx.y][threadIdx.x]);          // now a warp has a column
    const long long column = blockIdx.x * 32ll + threadIdx.y;
    if (threadIdx.x == 0 && column < n) sums[blockIdx.y * n + column] = T(sum);
}
""",
)
STRIPES = 64  # of rows, each summed up by itself


@replaces(sum_leading)
def column_sums(x: Array) -> Array:
    """(..., n)  ->  (n,): first stripe by stripe, then the sums of all stripes."""
    rows = rows_of(x)
    stripes = min(STRIPES, -(-len(rows) // (4 * WARP)))
    for parts in (stripes, 1) if stripes > 1 else (1,):
        sums = cupy.empty((parts, x.shape[-1]), dtype=x.dtype)
        SUMS.launch((-(-x.shape[-1] // WARP), parts), (WARP, WARP), rows, sums, *rows.shape)
        rows = sums
    return rows[0]
