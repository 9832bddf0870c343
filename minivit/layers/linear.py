"""The linear layer y = x W + b: patch projection E, U_qkv, U_msa, both MLP layers, the head."""

from functools import singledispatch

from ..arrays import Array, Pullback, sum_leading, widen_float16


@singledispatch
@widen_float16
def linear(x: Array, kernel: Array, bias: Array | None = None) -> tuple[Array, Pullback]:
    """Apply one matrix to every token:  y = x kernel + bias.

    x (..., D), kernel (D, E), bias (E,) or None  ->  y (..., E)
    """
    D, E = kernel.shape
    rows = x.reshape(-1, D)  # one large product is faster than B small ones
    y = rows @ kernel
    if bias is not None:
        y += bias

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        drows = dy.reshape(-1, E)
        dparams = {"kernel": rows.T @ drows}  # the sum of xᵀ dy over all tokens
        if bias is not None:
            dparams["bias"] = sum_leading(drows)
        return (drows @ kernel.T).reshape(x.shape), dparams

    return y.reshape(*x.shape[:-1], E), pullback
