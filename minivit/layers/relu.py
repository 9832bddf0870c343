"""ReLU, the bend of the hybrid's ResNet."""

from ..arrays import Array, Pullback


def relu(x: Array) -> tuple[Array, Pullback]:
    """Nothing below zero:  y = max(x, 0).

    x, of any shape  ->  y, the same. At zero itself, where there is no slope, it is taken as 0.
    """
    positive = x.real > 0

    def pullback(dy: Array) -> Array:
        return dy * positive

    return x * positive, pullback
