"""GELU in one pass over memory, with an optional bias that is added first (see `mlp.py`)."""

import cupy  # pyright: ignore[reportMissingImports]

from ..arrays import Array, Pullback
from ..layers.gelu import TANH, gelu
from .kernel import Kernel, as_rows, check_operand, register

EXACT = {"tanh": 0, "erf": 1}

CONSTANTS = f"""
template <typename F> struct Constants {{
    static constexpr F a = {TANH[0]!r}, b = {TANH[1]!r};        // of the tanh approximation
    static constexpr F root_half = 0.7071067811865476;          // √½
    static constexpr F density = 0.3989422804014327;            // 1 / √(2π)
}};
"""
SOURCE = r"""
// Φ(x), the standard normal distribution function.
template <typename F> __device__ F normal_cdf(F x, long long exact) {
    using c = Constants<F>;
    if (exact) return F(0.5) * erfc(-x * c::root_half);
    return F(0.5) * (1 + tanh(x * (c::a + c::b * x * x)));
}

// The derivative of x Φ(x):  Φ + x Φ'.
template <typename F> __device__ F derivative(F x, long long exact) {
    using c = Constants<F>;
    if (exact) return normal_cdf(x, exact) + x * c::density * exp(F(-0.5) * x * x);
    const F t = tanh(x * (c::a + c::b * x * x));
    const F dt = (1 - t) * (1 + t);
    return F(0.5) * (1 + t + (dt == 0 ? F(0) : x * dt * (c::a + 3 * c::b * x * x)));
}

// x (rows, M); bias (M,) or a null pointer.
template <typename T>
__global__ void gelu(const T* x, const T* bias, T* y, long long rows, long long M,
                     long long exact) {
    using F = computed<T>;
    WARP_ROW(row, rows);
    x += row * M, y += row * M;
    for (LANE_ENTRIES(j, M)) {
        const F h = F(x[j]) + (bias ? F(bias[j]) : F(0));
        y[j] = T(h * normal_cdf(h, exact));
    }
}

template <typename T>
__global__ void gelu_back(const T* x, const T* bias, const T* dy, T* dx, long long rows,
                          long long M, long long exact) {
    using F = computed<T>;
    WARP_ROW(row, rows);
    x += row * M, dy += row * M, dx += row * M;
    for (LANE_ENTRIES(j, M)) {
        const F h = F(x[j]) + (bias ? F(bias[j]) : F(0));
        dx[j] = T(F(dy[j]) * derivative(h, exact));
    }
}
"""
FORWARD, BACKWARD = (Kernel(name, CONSTANTS + SOURCE) for name in ("gelu", "gelu_back"))


@register(gelu)
def gelu_cuda(x: Array, kind: str = "tanh") -> tuple[Array, Pullback]:
    """x, any shape  ->  y, the same shape. Raises ValueError for an unknown kind."""
    return gelu_with_bias(x, None, kind)


def gelu_with_bias(x: Array, bias: Array | None, kind: str) -> tuple[Array, Pullback]:
    """y = (x + bias) Φ(x + bias); the pullback returns the gradient of x + bias.

    x (..., M), bias (M,) or None  ->  y (..., M). Raises ValueError for an unknown kind.
    """
    if kind not in EXACT:
        raise ValueError(f"unknown GELU '{kind}': choose 'tanh' or 'erf'")
    x_rows = as_rows(x)
    shape, (rows, M) = x.shape, x_rows.shape
    bias_or_null = 0 if bias is None else check_operand(bias, x, (M,))
    y = cupy.empty_like(x_rows)
    FORWARD.launch_rows(rows, x_rows, bias_or_null, y, rows, M, EXACT[kind])

    def pullback(dy: Array) -> Array:
        dy_rows, dx = check_operand(dy, x_rows, shape), cupy.empty_like(x_rows)
        BACKWARD.launch_rows(rows, x_rows, bias_or_null, dy_rows, dx, rows, M, EXACT[kind])
        return dx.reshape(shape)

    return y.reshape(shape), pullback
