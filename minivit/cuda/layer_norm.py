"""LN of Equations 2 to 4: a row comes from memory once, and once more on the way back.

(The kernels go over it three times and twice, but after the first a row is in the cache.) Instead
of x_hat the pullback keeps x, and of each row the mean and 1/σ. That is no more memory, and there
is one array less to write.
"""

import cupy

from ..arrays import Array, Pullback, sum_leading
from ..layers.layer_norm import layer_norm
from .kernel import Kernel, read_with, replaces, rows_of

FORWARD = Kernel(
    "layer_norm",
    r"""
template <typename T>
__global__ void layer_norm(const T* x, const T* scale, const T* bias, T* y, computed<T>* mean,
                           computed<T>* rstd, long long rows, long long D, double eps) {
    using F = computed<T>;
    const long long row = WARP_ROW;
    if (row >= rows) return;
    x += row * D, y += row * D;
    F sum = 0, squares = 0;
    for (LANE_NUMBERS(j, D)) sum += F(x[j]);
    const F mu = warp_sum(sum) / D;
    for (LANE_NUMBERS(j, D)) squares += (F(x[j]) - mu) * (F(x[j]) - mu);
    const F r = 1 / sqrt(warp_sum(squares) / D + F(eps));
    for (LANE_NUMBERS(j, D)) y[j] = T((F(x[j]) - mu) * r * F(scale[j]) + F(bias[j]));
    if (threadIdx.x == 0) mean[row] = mu, rstd[row] = r;
}
""",
)

# Moving x along 1 or along x_hat changes only what x_hat forgets: those parts are taken out of g.
BACKWARD = Kernel(
    "layer_norm_back",
    r"""
template <typename T>
__global__ void layer_norm_back(const T* x, const T* scale, const T* dy, T* dx, T* product,
                                const computed<T>* mean, const computed<T>* rstd,
                                long long rows, long long D) {
    using F = computed<T>;
    const long long row = WARP_ROW;
    if (row >= rows) return;
    x += row * D, dy += row * D, dx += row * D, product += row * D;
    const F mu = mean[row], r = rstd[row];
    F along_1 = 0, along_x_hat = 0;
    for (LANE_NUMBERS(j, D)) {
        const F g = F(dy[j]) * F(scale[j]);
        along_1 += g;
        along_x_hat += g * (F(x[j]) - mu) * r;
    }
    along_1 = warp_sum(along_1) / D, along_x_hat = warp_sum(along_x_hat) / D;
    for (LANE_NUMBERS(j, D)) {
        const F x_hat = (F(x[j]) - mu) * r;
        dx[j] = T(r * (F(dy[j]) * F(scale[j]) - along_1 - x_hat * along_x_hat));
        product[j] = T(F(dy[j]) * x_hat);
    }
}
""",
)


@replaces(layer_norm)
def layer_norm_of_rows(
    x: Array, scale: Array, bias: Array, eps: float = 1e-6
) -> tuple[Array, Pullback]:
    """x (..., D), scale (D,), bias (D,)  ->  y (..., D)"""
    given = rows_of(x)
    rows, D = given.shape
    y = cupy.empty_like(given)
    mean, rstd = cupy.empty((2, rows), dtype="float64" if x.dtype == "float64" else "float32")
    s, b = (read_with(x, each, (D,)) for each in (scale, bias))
    FORWARD.by_rows(rows, given, s, b, y, mean, rstd, rows, D, float(eps))

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        drows = read_with(x, dy, x.shape).reshape(rows, D)
        dx, product = cupy.empty_like(given), cupy.empty_like(given)
        BACKWARD.by_rows(rows, given, s, drows, dx, product, mean, rstd, rows, D)
        return dx.reshape(dy.shape), {"scale": sum_leading(product), "bias": sum_leading(drows)}

    return y.reshape(x.shape), pullback
