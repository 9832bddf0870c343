"""Softmax cross-entropy: one warp per image computes the loss and the gradient of the logits."""

import cupy  # pyright: ignore[reportMissingImports]

from ..arrays import Array, Pullback
from ..layers.losses import check_label_smoothing, cross_entropy, make_targets
from .kernel import COMPUTED, Kernel, register

SOURCE = r"""
template <typename T>
__global__ void cross_entropy(const T* logits, const T* targets, computed<T>* losses, T* dlogits,
                              long long B, long long K) {
    using F = computed<T>;
    WARP_ROW(row, B);
    logits += row * K, targets += row * K, dlogits += row * K;
    F largest = F(logits[0]), sum = 0, mass = 0, dot = 0;
    for (LANE_ENTRIES(j, K)) largest = fmax(largest, F(logits[j]));
    largest = warp_max(largest);
    for (LANE_ENTRIES(j, K)) {
        sum += exp(F(logits[j]) - largest);
        mass += F(targets[j]);
        dot += F(targets[j]) * (F(logits[j]) - largest);
    }
    sum = warp_sum(sum), mass = warp_sum(mass), dot = warp_sum(dot);
    for (LANE_ENTRIES(j, K))
        dlogits[j] = T(exp(F(logits[j]) - largest) / sum * mass - F(targets[j]));
    if (threadIdx.x == 0) losses[row] = mass * log(sum) - dot;
}
"""
FORWARD = Kernel("cross_entropy", SOURCE)


@register(cross_entropy)
def cross_entropy_cuda(
    logits: Array, labels: Array, label_smoothing: float = 0.0
) -> tuple[Array, Pullback]:
    """logits (B, K), labels (B,) integers or (B, K) soft targets  ->  a scalar, in nats.

    The forward kernel also stores the gradient, softmax - target, which has only B K entries.
    """
    check_label_smoothing(label_smoothing)
    B, K = logits.shape
    targets = cupy.ascontiguousarray(make_targets(logits, labels, label_smoothing))
    logits = cupy.ascontiguousarray(logits)
    losses, dlogits = cupy.empty(B, COMPUTED[logits.dtype.name]), cupy.empty_like(logits)
    FORWARD.launch_rows(B, logits, targets, losses, dlogits, B, K)

    def pullback(dloss: Array = 1) -> Array:
        return dlogits * (dloss / B)

    return (losses.sum() / B).astype(logits.dtype, copy=False), pullback
