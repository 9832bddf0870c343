"""The MLP of Equation 3, whose first bias is added where GELU reads its numbers anyway."""

import numpy as np

from ..arrays import Array, Pullback, sum_leading
from ..layers.dropout import dropout
from ..layers.linear import linear
from ..layers.mlp import mlp
from .gelu import gelu_with_bias
from .kernel import replaces


@replaces(mlp)
def mlp_with_biases_inside(
    x: Array,
    hidden: dict[str, Array],
    out: dict[str, Array],
    kind: str = "tanh",
    rate: float = 0.0,
    generator: np.random.Generator | None = None,
) -> tuple[Array, Pullback]:
    """x (..., D), hidden {kernel (D, M), bias (M,)}, out {kernel (M, D), bias (D,)} -> (..., D)"""
    bias = hidden.get("bias")
    h, product_back = linear(x, hidden["kernel"])  # (..., M)
    a, gelu_back = gelu_with_bias(h, bias, kind)
    a_kept, middle_drop_back = dropout(a, rate, generator)
    y, out_back = linear(a_kept, **out)  # (..., D)
    y_kept, last_drop_back = dropout(y, rate, generator)

    def pullback(dy: Array) -> tuple[Array, dict[str, dict[str, Array]]]:
        da, dout = out_back(last_drop_back(dy))
        dh = gelu_back(middle_drop_back(da))
        dx, dhidden = product_back(dh)
        if bias is not None:
            dhidden["bias"] = sum_leading(dh)
        return dx, {"hidden": dhidden, "out": dout}

    return y_kept, pullback
