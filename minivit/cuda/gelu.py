"""GELU in one pass over its rows, with a bias that may be added on the way (see `mlp.py`)."""

import cupy

from ..arrays import Array, Pullback
from ..layers.gelu import TANH, gelu
from .kernel import NULL, Kernel, read_with, replaces, rows_of

KINDS = {"tanh": 0, "erf": 1}

CODE = (
    f"""
template <typename F> struct Form {{
    static constexpr F a = {TANH[0]!r}, b = {TANH[1]!r};        // the authors' two coefficients
    static constexpr F root_half = 0.7071067811865476, density = 0.3989422804014327;
}};
"""
    + r"""
// Φ(x), the probability that a normal number is smaller.
template <typename F> __device__ F normal(F x, long long exact) {
    using form = Form<F>;
    if (exact) return F(0.5) * erfc(-x * form::root_half);
    return F(0.5) * (1 + tanh(x * (form::a + form::b * x * x)));
}

// The slope of x Φ(x):  Φ + x Φ'.
template <typename F> __device__ F slope(F x, long long exact) {
    using form = Form<F>;
    if (exact) return normal(x, exact) + x * form::density * exp(F(-0.5) * x * x);
    const F t = tanh(x * (form::a + form::b * x * x));
    const F bell = (1 - t) * (1 + t);
    return F(0.5) * (1 + t + (bell == 0 ? F(0) : x * bell * (form::a + 3 * form::b * x * x)));
}

// x is (rows, M); the bias (M,), or there is none.
template <typename T>
__global__ void gelu(const T* x, const T* bias, T* y, long long rows, long long M,
                     long long exact) {
    using F = computed<T>;
    const long long row = WARP_ROW;
    if (row >= rows) return;
    x += row * M, y += row * M;
    for (LANE_NUMBERS(j, M)) {
        const F h = F(x[j]) + (bias ? F(bias[j]) : F(0));
        y[j] = T(h * normal(h, exact));
    }
}

template <typename T>
__global__ void gelu_back(const T* x, const T* bias, const T* dy, T* dx, long long rows,
                          long long M, long long exact) {
    using F = computed<T>;
    const long long row = WARP_ROW;
    if (row >= rows) return;
    x += row * M, dy += row * M, dx += row * M;
    for (LANE_NUMBERS(j, M)) {
        const F h = F(x[j]) + (bias ? F(bias[j]) : F(0));
        dx[j] = T(F(dy[j]) * slope(h, exact));
    }
}
"""
)
FORWARD, BACKWARD = Kernel("gelu", CODE), Kernel("gelu_back", CODE)


@replaces(gelu)
def gelu_of_rows(x: Array, kind: str = "tanh") -> tuple[Array, Pullback]:
    """x, of any shape  ->  y, the same. Raises ValueError for an unknown kind."""
    return gelu_with_bias(x, None, kind)


def gelu_with_bias(x: Array, bias: Array | None, kind: str) -> tuple[Array, Pullback]:
    """y = (x + bias) Φ(x + bias); the pullback's gradient is that of x + bias.

    x (..., M), bias (M,) or None  ->  y (..., M). Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown GELU '{kind}': choose 'tanh' or 'erf'")
    given = rows_of(x)
    rows, M = given.shape
    exact, added = KINDS[kind], NULL if bias is None else read_with(x, bias, (M,))
    y = cupy.empty_like(given)
    FORWARD.by_rows(rows, given, added, y, rows, M, exact)

    def pullback(dy: Array) -> Array:
        dx = cupy.empty_like(given)
        BACKWARD.by_rows(rows, given, added, read_with(x, dy, x.shape), dx, rows, M, exact)
        return dx.reshape(dy.shape)

    return y.reshape(x.shape), pullback
