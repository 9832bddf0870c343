"""The linear layer, with all products computed by cuBLAS."""

from ..arrays import Array, Pullback, matmul, sum_leading
from ..layers.linear import linear
from .kernel import register


@register(linear)
def linear_cuda(x: Array, kernel: Array, bias: Array | None = None) -> tuple[Array, Pullback]:
    """x (..., D), kernel (D, E), bias (E,) or None  ->  y (..., E)"""
    D, E = kernel.shape
    rows = x.reshape(-1, D)
    y = matmul(rows, kernel)
    if bias is not None:
        y += bias

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        drows = dy.reshape(-1, E)
        dparams = {"kernel": matmul(rows.T, drows)}
        if bias is not None:
            dparams["bias"] = sum_leading(drows)
        return matmul(drows, kernel.T).reshape(x.shape), dparams

    return y.reshape(*x.shape[:-1], E), pullback
