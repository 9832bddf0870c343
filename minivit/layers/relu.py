"""ReLU, the nonlinearity of the hybrid's ResNet."""

from ..arrays import Array, Pullback


def relu(x: Array) -> tuple[Array, Pullback]:
    """Rectified linear unit:  y = max(x, 0).

    x, any shape  ->  y, the same shape. The derivative at zero is taken as zero.
    """
    positive = x.real > 0
    return x * positive, lambda dy: dy * positive
