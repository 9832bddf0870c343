"""The softmax of Equation 6."""

from ..arrays import Array, Pullback, array_module, row_dot, row_sum


def softmax(x: Array) -> tuple[Array, Pullback]:
    """Scores become weights: positive, and each row sums to one.

    x (..., n)  ->  p (..., n)
    """
    xp = array_module(x)
    exps = xp.exp(x - x.real.max(-1, keepdims=True))          # the shift avoids overflow, no more
    p = xp.divide(exps, row_sum(exps), out=exps)

    def pullback(dp: Array) -> Array:
        # What all of a row's weights would gain together, none can: they still sum to one.
        return p * (dp - row_dot(p, dp))

    return p, pullback
