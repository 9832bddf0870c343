"""The softmax of Equation 6: one kernel per pass, one warp per row."""

import cupy  # pyright: ignore[reportMissingImports]

from ..arrays import Array, Pullback
from ..layers.softmax import softmax
from .kernel import Kernel, as_rows, check_operand, register

SOURCE = r"""
template <typename T>
__global__ void softmax(const T* x, T* p, long long rows, long long n) {
    using F = computed<T>;
    WARP_ROW(row, rows);
    x += row * n, p += row * n;
    F largest = F(x[0]), sum = 0;
    for (LANE_ENTRIES(j, n)) largest = fmax(largest, F(x[j]));
    largest = warp_max(largest);
    for (LANE_ENTRIES(j, n)) sum += exp(F(x[j]) - largest);
    sum = warp_sum(sum);
    for (LANE_ENTRIES(j, n)) p[j] = T(exp(F(x[j]) - largest) / sum);
}

template <typename T>
__global__ void softmax_back(const T* p, const T* dp, T* dx, long long rows, long long n) {
    using F = computed<T>;
    WARP_ROW(row, rows);
    p += row * n, dp += row * n, dx += row * n;
    F dot = 0;
    for (LANE_ENTRIES(j, n)) dot += F(p[j]) * F(dp[j]);
    dot = warp_sum(dot);
    for (LANE_ENTRIES(j, n)) dx[j] = T(F(p[j]) * (F(dp[j]) - dot));
}
"""
FORWARD, BACKWARD = Kernel("softmax", SOURCE), Kernel("softmax_back", SOURCE)


@register(softmax)
def softmax_cuda(x: Array, out: Array | None = None) -> tuple[Array, Pullback]:
    """x (..., n)  ->  p (..., n), written to `out` if it is given; `out` may be x itself."""
    x_rows = as_rows(x)
    shape, (rows, n) = x.shape, x_rows.shape
    p = cupy.empty_like(x_rows) if out is None else as_rows(out)
    FORWARD.launch_rows(rows, x_rows, p, rows, n)
    if out is not None and not out.flags.c_contiguous:
        out[...] = p.reshape(shape)

    def pullback(dp: Array) -> Array:
        dx = cupy.empty_like(p)
        BACKWARD.launch_rows(rows, p, check_operand(dp, p, shape), dx, rows, n)
        return dx.reshape(shape)

    return p.reshape(shape), pullback
