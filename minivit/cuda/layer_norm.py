"""Layer normalisation: one kernel per pass, one warp per row.

A row is read several times, but only the first read misses the cache. The pullback retains x and
the mean and 1/σ of each row instead of x_hat, so that the kernel does not have to write x_hat.
"""

import cupy  # pyright: ignore[reportMissingImports]

from ..arrays import Array, Pullback, sum_leading
from ..layers.layer_norm import layer_norm
from .kernel import COMPUTED, Kernel, as_rows, check_operand, register

SOURCE = r"""
template <typename T>
__global__ void layer_norm(const T* x, const T* scale, const T* bias, T* y, computed<T>* mean,
                           computed<T>* rstd, long long rows, long long D, double eps) {
    using F = computed<T>;
    WARP_ROW(row, rows);
    x += row * D, y += row * D;
    F sum = 0, squares = 0;
    for (LANE_ENTRIES(j, D)) sum += F(x[j]);
    const F mu = warp_sum(sum) / D;
    for (LANE_ENTRIES(j, D)) squares += (F(x[j]) - mu) * (F(x[j]) - mu);
    const F r = 1 / sqrt(warp_sum(squares) / D + F(eps));
    for (LANE_ENTRIES(j, D)) y[j] = T((F(x[j]) - mu) * r * F(scale[j]) + F(bias[j]));
    if (threadIdx.x == 0) mean[row] = mu, rstd[row] = r;
}

// As in `layers/layer_norm.py`, remove from g = dy * scale the components along 1 and along x_hat.
template <typename T>
__global__ void layer_norm_back(const T* x, const T* scale, const T* dy, T* dx, T* product,
                                const computed<T>* mean, const computed<T>* rstd,
                                long long rows, long long D) {
    using F = computed<T>;
    WARP_ROW(row, rows);
    x += row * D, dy += row * D, dx += row * D, product += row * D;
    const F mu = mean[row], r = rstd[row];
    F along_1 = 0, along_x_hat = 0;
    for (LANE_ENTRIES(j, D)) {
        const F g = F(dy[j]) * F(scale[j]);
        along_1 += g;
        along_x_hat += g * (F(x[j]) - mu) * r;
    }
    along_1 = warp_sum(along_1) / D, along_x_hat = warp_sum(along_x_hat) / D;
    for (LANE_ENTRIES(j, D)) {
        const F x_hat = (F(x[j]) - mu) * r;
        dx[j] = T(r * (F(dy[j]) * F(scale[j]) - along_1 - x_hat * along_x_hat));
        product[j] = T(F(dy[j]) * x_hat);
    }
}
"""
FORWARD, BACKWARD = Kernel("layer_norm", SOURCE), Kernel("layer_norm_back", SOURCE)


@register(layer_norm)
def layer_norm_cuda(
    x: Array, scale: Array, bias: Array, eps: float = 1e-6
) -> tuple[Array, Pullback]:
    """x (..., D), scale (D,), bias (D,)  ->  y (..., D)"""
    x_rows = as_rows(x)
    shape, (rows, D) = x.shape, x_rows.shape
    y = cupy.empty_like(x_rows)
    mean, rstd = cupy.empty((2, rows), dtype=COMPUTED[x.dtype.name])
    weights, offsets = (check_operand(vector, x, (D,)) for vector in (scale, bias))
    FORWARD.launch_rows(rows, x_rows, weights, offsets, y, mean, rstd, rows, D, float(eps))

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        dy_rows = check_operand(dy, x_rows, shape).reshape(rows, D)
        dx, product = cupy.empty_like(x_rows), cupy.empty_like(x_rows)
        BACKWARD.launch_rows(rows, x_rows, weights, dy_rows, dx, product, mean, rstd, rows, D)
        dparams = {"scale": sum_leading(product), "bias": sum_leading(dy_rows)}
        return dx.reshape(shape), dparams

    return y.reshape(shape), pullback
