"""AdamW in one kernel, which reads and writes each parameter and its two moments once."""

from typing import Any

from ..arrays import Array
from ..optim import adamw
from .kernel import Kernel, check_operand, register

THREADS = 256  # per block
SCALARS = ("step_size", "decay_factor", "beta1", "beta2", "v_scale", "eps")

SOURCE = r"""
template <typename T>
__global__ void adamw(T* p, const T* g, T* m, T* v, long long size, long long decayed,
                      double step_size, double decay_factor, double beta1, double beta2,
                      double v_scale, double eps) {
    using F = computed<T>;
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= size) return;
    const F gradient = F(g[i]);
    const F mean = F(beta1) * F(m[i]) + F(1 - beta1) * gradient;
    const F square = F(beta2) * F(v[i]) + F(1 - beta2) * gradient * gradient;
    const F before = i < decayed ? F(p[i]) * F(decay_factor) : F(p[i]);
    m[i] = T(mean), v[i] = T(square);
    p[i] = T(before - F(step_size) * mean / (F(v_scale) * sqrt(square) + F(eps)));
}
"""
UPDATE = Kernel("adamw", SOURCE)


@register(adamw)
def adamw_cuda(p: Array, g: Array, m: Array, v: Array, *, decayed: int, **options: Any) -> None:
    """Update the parameters p and both moments in place. The option `threads` has no effect."""
    g, m, v = (check_operand(vector, p, p.shape) for vector in (g, m, v))
    scalars = [float(options[name]) for name in SCALARS]
    UPDATE.launch((-(-p.size // THREADS),), (THREADS,), p, g, m, v, p.size, decayed, *scalars)
