"""AdamW: each parameter is read once, moved, and written, and so are its two moments."""

from typing import Any

from ..arrays import Array
from ..optim import adamw
from .kernel import Kernel, read_with, replaces

UPDATE = Kernel(
    "adamw",
    r"""
template <typename T>
__global__ void adamw(T* p, const T* g, T* m, T* v, long long size, long long decayed, double step_size,
                      double decay_factor, double beta1, double beta2, double v_scale, double eps) {
    using F = computed<T>;
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= size) return;
    const F slope = F(g[i]);
    const F mean = F(beta1) * F(m[i]) + F(1 - beta1) * slope;
    const F square = F(beta2) * F(v[i]) + F(1 - beta2) * slope * slope;
    const F kept = i < decayed ? F(p[i]) * F(decay_factor) : F(p[i]);
    m[i] = T(mean), v[i] = T(square);
    p[i] = T(kept - F(step_size) * mean / (F(v_scale) * sqrt(square) + F(eps)));
}
""",
)


@replaces(adamw)
def adamw_by_entries(
    p: Array, g: Array, m: Array, v: Array, *, threads: int | None = None, **how: Any
) -> None:
    """As the plain one, in place; `threads` are the CPU's."""
    numbers = (
        float(how[name])
        for name in ("step_size", "decay_factor", "beta1", "beta2", "v_scale", "eps")
    )
    g, m, v = (read_with(p, each, p.shape) for each in (g, m, v))
    UPDATE.by_entries(p.size, p, g, m, v, p.size, how["decayed"], *numbers)
