"""Matrix products that read and write views with cuBLAS, and sums over the rows of a matrix.

CuPy's `matmul` first copies an operand that is a view, and converts float16 to float32. cuBLAS
needs neither: its arguments include the transposition, leading dimension and stride of each
operand. So q, k and v are read from the array that contains all three, and their gradients are
written into one such array.
"""

import itertools

import cupy  # pyright: ignore[reportMissingImports]
import numpy as np

from ..arrays import Array, matmul, sum_leading
from .kernel import COMPUTED, WARP, Kernel, as_rows, register

cublas, runtime = cupy.cuda.cublas, cupy.cuda.runtime

FLOAT, DOUBLE = cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_COMPUTE_64F
COMPUTE_TYPES = {"float16": FLOAT, "float32": FLOAT, "float64": DOUBLE}
FLOAT32_COMPUTE_TYPES = {  # with 23, 10 and 7 mantissa bits
    "float32": FLOAT,
    "tf32": cublas.CUBLAS_COMPUTE_32F_FAST_TF32,
    "bfloat16": cublas.CUBLAS_COMPUTE_32F_FAST_16BF,
}
DATA_TYPES = {"float16": runtime.CUDA_R_16F, "float32": runtime.CUDA_R_32F}
DATA_TYPES["float64"] = runtime.CUDA_R_64F


def set_matmul_precision(precision: str) -> None:
    """Set the precision of products of float32 arrays, see `devices.set_matmul_precision`."""
    if precision not in FLOAT32_COMPUTE_TYPES:
        choices = ", ".join(FLOAT32_COMPUTE_TYPES)
        raise ValueError(f"unknown precision {precision!r}: choose {choices}")
    COMPUTE_TYPES["float32"] = FLOAT32_COMPUTE_TYPES[precision]


@register(matmul)
def matmul_cuda(a: Array, b: Array, out: Array | None = None) -> Array:
    """(..., n, m) @ (..., m, p)  ->  (..., n, p), written to `out` if it is given.

    An operand is copied only if neither its rows nor its columns are contiguous. Raises ValueError
    if the shapes or dtypes do not match.
    """
    (n, m), (b_rows, p) = a.shape[-2:], b.shape[-2:]
    if m != b_rows or a.dtype != b.dtype:
        raise ValueError(f"cannot multiply {a.dtype} {a.shape} by {b.dtype} {b.shape}")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if out is None or matrix_layout(out)[0] != cublas.CUBLAS_OP_N:
        y = cupy.empty((*batch, n, p), dtype=a.dtype)
    else:
        y = out
    if m and y.size:
        gemm(prepare_matrices(a, batch), prepare_matrices(b, batch), y)
    elif y.size:
        y.fill(0)
    if out is not None and out is not y:
        out[...] = y
    return y if out is None else out


def prepare_matrices(x: Array, batch: tuple[int, ...]) -> Array:
    """Broadcast the batch axes of x. Copy x first if cuBLAS cannot read its matrices."""
    if matrix_layout(x)[0] is None:
        x = cupy.ascontiguousarray(x)
    return x if x.shape[:-2] == batch else cupy.broadcast_to(x, (*batch, *x.shape[-2:]))


def matrix_layout(x: Array) -> tuple[int | None, int]:
    """Return the operation and the leading dimension of the matrices of x for cuBLAS.

    The operation is N for row-major matrices, T for column-major matrices, and None for others.
    """
    (n, m), (row_stride, column_stride) = x.shape[-2:], x.strides[-2:]
    size = x.itemsize
    if (column_stride == size or m == 1) and (n == 1 or row_stride >= m * size):
        return cublas.CUBLAS_OP_N, max(m, row_stride // size if n > 1 else 1)
    if (row_stride == size or n == 1) and (m == 1 or column_stride >= n * size):
        return cublas.CUBLAS_OP_T, max(n, column_stride // size if m > 1 else 1)
    return None, 0


def gemm(a: Array, b: Array, y: Array) -> None:
    """Write y = a b for stacks of matrices of the same batch shape.

    One call computes all products along the longest batch axis. The other axes need a loop.
    """
    # cuBLAS reads matrices as column-major, a row-major matrix as its transpose: yᵀ = bᵀ aᵀ.
    (op_b, ld_b), (op_a, ld_a), (_, ld_y) = matrix_layout(b), matrix_layout(a), matrix_layout(y)
    (n, m), p, dtype = a.shape[-2:], b.shape[-1], a.dtype.name
    data_type, compute_type = DATA_TYPES[dtype], COMPUTE_TYPES[dtype]
    one, zero = np.ones(1, COMPUTED[dtype]), np.zeros(1, COMPUTED[dtype])  # read by the host
    *outer, (count, *strides) = sorted([(1, 0, 0, 0), *batch_axes(a, b, y)])
    stride_a, stride_b, stride_y = (stride // a.itemsize for stride in strides)
    handle = cupy.cuda.device.get_cublas_handle()
    for index in itertools.product(*(range(axis[0]) for axis in outer)):
        address_a, address_b, address_y = (
            x.data.ptr + sum(i * axis[k] for i, axis in zip(index, outer, strict=True))
            for k, x in enumerate((a, b, y), 1)
        )
        cublas.gemmStridedBatchedEx(
            handle, op_b, op_a, p, n, m, one.ctypes.data,
            address_b, data_type, ld_b, stride_b,
            address_a, data_type, ld_a, stride_a,
            zero.ctypes.data, address_y, data_type, ld_y, stride_y,
            count, compute_type, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip


def batch_axes(a: Array, b: Array, y: Array) -> list[tuple[int, int, int, int]]:
    """Return the batch axes as (length, stride in a, in b, in y), with strides in bytes.

    Two axes are merged if in all three arrays the outer stride is the inner one times its length.
    """
    axes: list[tuple[int, int, int, int]] = []
    strides = (x.strides[:-2] for x in (a, b, y))
    for n, *inner in zip(y.shape[:-2], *strides, strict=True):
        if n == 1:
            continue
        if axes and all(o == n * i for o, i in zip(axes[-1][1:], inner, strict=True)):
            axes[-1] = axes[-1][0] * n, *inner
        else:
            axes.append((n, *inner))
    return axes


# The lanes of a warp read adjacent columns; the 32 warps of a block share the rows. The partial
# sums are transposed in shared memory, so that one warp can add those of a column. The order of the
# additions is fixed, so the result is deterministic.
SOURCE = r"""
template <typename T>
__global__ void column_sums(const T* x, T* sums, long long rows, long long n) {
    using F = computed<T>;
    __shared__ F partial[32][33];                             // 33 avoids bank conflicts
    const long long j = blockIdx.x * 32ll + threadIdx.x;
    F sum = 0;
    if (j < n)
        for (long long i = blockIdx.y * 32ll + threadIdx.y; i < rows; i += gridDim.y * 32ll)
            sum += F(x[i * n + j]);
    partial[threadIdx.x][threadIdx.y] = sum;
    __syncthreads();
    sum = warp_sum(partial[threadIdx.y][threadIdx.x]);        // one column per warp
    const long long column = blockIdx.x * 32ll + threadIdx.y;
    if (threadIdx.x == 0 && column < n) sums[blockIdx.y * n + column] = T(sum);
}
"""
SUMS = Kernel("column_sums", SOURCE)
MAX_CHUNKS = 64  # chunks of rows that are summed in parallel


@register(sum_leading)
def sum_leading_cuda(x: Array) -> Array:
    """(..., n)  ->  (n,). Chunks of rows are summed in parallel, and then the partial sums."""
    rows = as_rows(x)
    chunks = min(MAX_CHUNKS, -(-len(rows) // (4 * WARP)))
    for count in (chunks, 1) if chunks > 1 else (1,):
        sums = cupy.empty((count, x.shape[-1]), dtype=x.dtype)
        SUMS.launch((-(-x.shape[-1] // WARP), count), (WARP, WARP), rows, sums, *rows.shape)
        rows = sums
    return rows[0]
