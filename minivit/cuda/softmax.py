"""The softmax of Equation 6 in one kernel, and its way back in another: a warp has a row."""

import cupy

from ..arrays import Array, Pullback
from ..layers.softmax import softmax
from .kernel import Kernel, read_with, replaces, rows_of

FORWARD = Kernel(
    "softmax",
    r"""
template <typename T>
__global__ void softmax(const T* x, T* p, long long rows, long long n) {
    using F = computed<T>;
    const long long row = WARP_ROW;
    if (row >= rows) return;
    x += row * n, p += row * n;
    F most = F(x[0]), sum = 0;
    for (LANE_NUMBERS(j, n)) most = fmax(most, F(x[j]));
    most = warp_max(most);
    for (LANE_NUMBERS(j, n)) sum += exp(F(x[j]) - most);
    sum = warp_sum(sum);
    for (LANE_NUMBERS(j, n)) p[j] = T(exp(F(x[j]) - most) / sum);
}
""",
)

BACKWARD = Kernel(
    "softmax_back",
    r"""
template <typename T>
__global__ void softmax_back(const T* p, const T* dp, T* dx, long long rows, long long n) {
    using F = computed<T>;
    const long long row = WARP_ROW;
    if (row >= rows) return;
    p += row * n, dp += row * n, dx += row * n;
    F together = 0;
    for (LANE_NUMBERS(j, n)) together += F(p[j]) * F(dp[j]);
    together = warp_sum(together);
    for (LANE_NUMBERS(j, n)) dx[j] = T(F(p[j]) * (F(dp[j]) - together));
}
""",
)


@replaces(softmax)
def softmax_of_rows(x: Array, out: Array | None = None) -> tuple[Array, Pullback]:
    """x (..., n)  ->  p (..., n), written to `out` if it is given, which may be x itself."""
    given = rows_of(x)
    rows, n = given.shape
    fits = out is not None and out.flags.c_contiguous
    p = out.reshape(rows, n) if fits else cupy.empty_like(given)
    FORWARD.by_rows(rows, given, p, rows, n)
    if out is not None and not fits:
        out[...] = p.reshape(out.shape)

    def pullback(dp: Array) -> Array:
        dx = cupy.empty_like(p)
        BACKWARD.by_rows(rows, p, read_with(p, dp, x.shape), dx, rows, n)
        return dx.reshape(dp.shape)

    return p.reshape(x.shape), pullback
