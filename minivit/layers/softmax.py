"""The softmax of Equation 6."""

from functools import singledispatch

from ..arrays import Array, Pullback, array_module, sum_last


@singledispatch
def softmax(x: Array, out: Array | None = None) -> tuple[Array, Pullback]:
    """Scores become weights: positive, and each row sums to one.

    x (..., n)  ->  p (..., n), written to `out` if it is given, which may be x itself
    """
    xp = array_module(x)
    shift = x.real.max(-1, keepdims=True)  # it avoids overflow, no more
    exps = xp.subtract(x, shift, out=out)
    xp.exp(exps, out=exps)
    p = xp.divide(exps, sum_last(exps), out=exps)

    def pullback(dp: Array) -> Array:
        # What all of a row's weights would gain together, none can: they still sum to one.
        dx = p * dp
        dx -= p * sum_last(dx)
        return dx

    return p, pullback
