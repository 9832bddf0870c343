"""Products by cuBLAS, on arrays as they lie; and sums over rows.

CuPy's own product of many matrices copies an operand that is a view, and widens float16 before it
multiplies. cuBLAS needs neither: it takes for each operand the distance between two rows, whether
to read it as its transpose, and the distance from one matrix to the next. So q, k and v are read
out of the one array that holds all three, and their gradients are written into one like it.
"""

from itertools import pairwise
from math import prod

import cupy
import numpy as np

from ..arrays import Array, matmul, sum_rows
from .kernel import WARP, Kernel, replaces, rows_of

cublas, runtime = cupy.cuda.cublas, cupy.cuda.runtime

#        what cuBLAS calls it, what it is added up in, the type of the two factors alpha and beta
STORED = {
    "float16": (runtime.CUDA_R_16F, cublas.CUBLAS_COMPUTE_32F, np.float32),
    "float32": (runtime.CUDA_R_32F, cublas.CUBLAS_COMPUTE_32F, np.float32),
    "float64": (runtime.CUDA_R_64F, cublas.CUBLAS_COMPUTE_64F, np.float64),
}
ROUNDED = {  # how a product reads float32: as it is, or to 11 or 8 digits in base 2
    "float32": cublas.CUBLAS_COMPUTE_32F,
    "tf32": cublas.CUBLAS_COMPUTE_32F_FAST_TF32,
    "bfloat16": cublas.CUBLAS_COMPUTE_32F_FAST_16BF,
}


def multiply_in(precision: str) -> None:
    """From now on read the factors of float32 products in this precision, and add in float32.

    "float32"; "tf32", which has ten bits behind the point; or "bfloat16", which has seven. Arrays
    stay float32. It holds for the process. Raises ValueError for another.
    """
    if precision not in ROUNDED:
        raise ValueError(f"unknown precision {precision!r}: choose {', '.join(ROUNDED)}")
    name, _, factor = STORED["float32"]
    STORED["float32"] = name, ROUNDED[precision], factor


@replaces(matmul)
def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """(..., n, m) @ (..., m, p)  ->  (..., n, p), written to `out` if it is given.

    Nothing is copied whose rows or columns lie one after the other. Raises ValueError for shapes
    that do not fit.
    """
    (n, m), (m_too, p) = a.shape[-2:], b.shape[-2:]
    if m != m_too or a.dtype != b.dtype:
        raise ValueError(f"no product of {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    many = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    fits = out is not None and lies(out)[0]
    y = out if fits else cupy.empty((*many, n, p), dtype=a.dtype)
    if y.size and m:
        a, b = (cupy.broadcast_to(x, (*many, *x.shape[-2:])) for x in (a, b))
        multiply(readable(a), readable(b), y)
    elif y.size:
        y.fill(0)
    if out is None or fits:
        return y
    out[...] = y
    return out


def readable(x: Array) -> Array:
    """x if the rows of its matrices, or their columns, lie in memory as cuBLAS reads them."""
    return x if any(lies(x)) else cupy.ascontiguousarray(x)


def lies(x: Array) -> tuple[bool, bool]:
    """Whether the matrices of x lie row by row, and whether they lie column by column."""
    (n, m), (down, along) = x.shape[-2:], x.strides[-2:]
    one = x.itemsize
    by_rows = (along == one or m == 1) and (down >= m * one or n == 1)
    by_columns = (down == one or n == 1) and (along >= n * one or m == 1)
    return by_rows, by_columns


def multiply(a: Array, b: Array, y: Array) -> None:
    """y = a @ b for all matrices: one call, or one for each of the shorter axis in front."""
    together = [one_distance(x) for x in (a, b, y)]
    if None not in together:
        gemm(a, b, y, prod(y.shape[:-2]), together)
        return
    axis = int(np.argmin(y.shape[:-2]))
    for i in range(y.shape[axis]):
        at = (slice(None),) * axis + (i,)
        multiply(a[at], b[at], y[at])


def one_distance(x: Array) -> int | None:
    """Numbers from each matrix to the next, if that is the same for all; 0 if it is one matrix."""
    axes = [(n, step) for n, step in zip(x.shape[:-2], x.strides[:-2], strict=True) if n > 1]
    for (_, outer), (n, inner) in pairwise(axes):
        if outer != n * inner:
            return None
    return axes[-1][1] // x.itemsize if axes else 0


def gemm(a: Array, b: Array, y: Array, many: int, distances: list[int]) -> None:
    """cuBLAS's product. It goes by columns, so it is told of bᵀ aᵀ, which makes yᵀ."""
    (n, m), p = a.shape[-2:], b.shape[-1]
    stored, added, factor = STORED[a.dtype.name]
    alpha, beta = factor(1), factor(0)
    one, zero = np.asarray(alpha).reshape(1), np.asarray(beta).reshape(1)
    of_a, of_b, of_y = distances
    cublas.gemmStridedBatchedEx(
        cupy.cuda.device.get_cublas_handle(),
        *(cublas.CUBLAS_OP_N if lies(x)[0] else cublas.CUBLAS_OP_T for x in (b, a)),
        p, n, m,
        one.ctypes.data,
        b.data.ptr, stored, leading(b), of_b,
        a.data.ptr, stored, leading(a), of_a,
        zero.ctypes.data,
        y.data.ptr, stored, leading(y), of_y,
        many, added, cublas.CUBLAS_GEMM_DEFAULT,
    )  # fmt: skip


def leading(x: Array) -> int:
    """Numbers from one row to the next, or from one column to the next if it lies by columns."""
    (n, m), (down, along) = x.shape[-2:], x.strides[-2:]
    if lies(x)[0]:
        return max(m, down // x.itemsize if n > 1 else 0)
    return max(n, along // x.itemsize if m > 1 else 0)


# Each thread walks down a column, and 32 of them, a block's, share one out. What they find is added
# up in the block's own memory, in an order that is always the same.
SUMS = Kernel("column_sums", r"""
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
""")
STRIPES = 64  # of rows, each summed up by itself


@replaces(sum_rows)
def column_sums(x: Array) -> Array:
    """(..., n)  ->  (n,): first stripe by stripe, then the sums of all stripes."""
    rows = rows_of(x)
    stripes = min(STRIPES, -(-len(rows) // (4 * WARP)))
    for parts in (stripes, 1) if stripes > 1 else (1,):
        sums = cupy.empty((parts, x.shape[-1]), dtype=x.dtype)
        SUMS.launch((-(-x.shape[-1] // WARP), parts), (WARP, WARP), rows, sums, *rows.shape)
        rows = sums
    return rows[0]
