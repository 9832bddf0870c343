"""The MLP of Equation 3. The GELU kernel adds the first bias, which saves a pass over memory."""

import numpy as np

from ..arrays import Array, Pullback, sum_leading
from ..layers.dropout import dropout
from ..layers.linear import linear
from ..layers.mlp import mlp
from .gelu import gelu_with_bias
from .kernel import register


@register(mlp)
def mlp_cuda(
    x: Array,
    hidden: dict[str, Array],
    out: dict[str, Array],
    kind: str = "tanh",
    rate: float = 0.0,
    generator: np.random.Generator | None = None,
) -> tuple[Array, Pullback]:
    """x (..., D), hidden {kernel (D, M), bias (M,)}, out {kernel (M, D), bias (D,)} -> (..., D)"""
    bias = hidden.get("bias")
    h, hidden_back = linear(x, hidden["kernel"])  # (..., M)
    a, gelu_back = gelu_with_bias(h, bias, kind)
    a, hidden_drop_back = dropout(a, rate, generator)
    y, out_back = linear(a, **out)  # (..., D)
    y, out_drop_back = dropout(y, rate, generator)

    def pullback(dy: Array) -> tuple[Array, dict[str, dict[str, Array]]]:
        da, dout = out_back(out_drop_back(dy))
        dh = gelu_back(hidden_drop_back(da))
        dx, dhidden = hidden_back(dh)
        if bias is not None:
            dhidden["bias"] = sum_leading(dh)
        return dx, {"hidden": dhidden, "out": dout}

    return y, pullback
