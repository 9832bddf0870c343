"""Softmax cross-entropy: an image's loss, and its gradient, by one warp each."""

import cupy

from ..arrays import Array, Pullback
from ..layers.losses import cross_entropy, make_targets
from .kernel import Kernel, replaces

FORWARD = Kernel(
    "cross_entropy",
    r"""
template <typename T>
__global__ void cross_entropy(const T* logits, const T* targets, T* losses, T* slopes,
                              long long B, long long K) {
    using F = computed<T>;
    const long long row = WARP_ROW;
    if (row >= B) return;
    logits += row * K, targets += row * K, slopes += row * K;
    F most = F(logits[0]), sum = 0, mass = 0, met = 0;
    for (LANE_NUMBERS(j, K)) most = fmax(most, F(logits[j]));
    most = warp_max(most);
    for (LANE_NUMBERS(j, K)) {
        sum += exp(F(logits[j]) - most);
        mass += F(targets[j]);
        met += F(targets[j]) * (F(logits[j]) - most);
    }
    sum = warp_sum(sum), mass = warp_sum(mass), met = warp_sum(met);
    for (LANE_NUMBERS(j, K))
        slopes[j] = T(exp(F(logits[j]) - most) / sum * mass - F(targets[j]));
    if (threadIdx.x == 0) losses[row] = T(mass * log(sum) - met);
}
""",
)


@replaces(cross_entropy)
def cross_entropy_of_rows(
    logits: Array, labels: Array, label_smoothing: float = 0.0
) -> tuple[Array, Pullback]:
    """logits (B, K), labels (B,) integers or (B, K) soft  ->  a scalar, in nats.

    The gradient, softmax - target, is made on the way forth: logits are few.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label smoothing is a share from 0 to 1, not {label_smoothing}")
    B, K = logits.shape
    targets = cupy.ascontiguousarray(make_targets(logits, labels, label_smoothing))
    given = cupy.ascontiguousarray(logits)
    losses, slopes = cupy.empty(B, dtype=logits.dtype), cupy.empty_like(given)
    FORWARD.by_rows(B, given, targets, losses, slopes, B, K)

    def pullback(dloss: Array = 1) -> Array:
        return slopes * (dloss / B)

    return losses.sum() / B, pullback
