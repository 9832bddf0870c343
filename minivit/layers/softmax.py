"""The softmax of Equation 6."""

from functools import singledispatch

from ..arrays import Array, Pullback, array_module, sum_last, widen_float16


@singledispatch
@widen_float16
def softmax(x: Array, out: Array | None = None) -> tuple[Array, Pullback]:
    """Normalise each row of scores to positive weights that sum to one (Equation 6).

    x (..., n)  ->  p (..., n)
    The row maximum is subtracted first. This avoids overflow and does not change the result. If
    `out` is given, the result is written to it; `out` may be x itself.
    """
    xp = array_module(x)
    shift = x.real.max(-1, keepdims=True)
    exps = xp.subtract(x, shift, out=out)
    xp.exp(exps, out=exps)
    p = xp.divide(exps, sum_last(exps), out=exps)

    def pullback(dp: Array) -> Array:
        # The weights sum to one, so only differences between the entries of dp matter.
        dx = p * dp
        dx -= p * sum_last(dx)
        return dx

    return p, pullback
