"""The MLP of Equation 3: two linear layers with a GELU between them."""

from functools import singledispatch

import numpy as np

from ..arrays import Array, Pullback
from .dropout import dropout
from .gelu import gelu
from .linear import linear


@singledispatch
def mlp(
    x: Array, hidden: dict[str, Array], out: dict[str, Array], kind: str = "tanh",
    rate: float = 0.0, generator: np.random.Generator | None = None,
) -> tuple[Array, Pullback]:  # fmt: skip
    """Process each token separately: linear layer to width M, GELU, linear layer to width D.

    x (..., D), hidden {kernel (D, M), bias (M,)}, out {kernel (M, D), bias (D,)}  ->  y (..., D)
    `kind` is passed to `gelu`. Dropout of `rate` follows the GELU and the second layer.
    """
    h, hidden_back = linear(x, **hidden)  # (..., M)
    a, gelu_back = gelu(h, kind)
    a, hidden_drop_back = dropout(a, rate, generator)
    y, out_back = linear(a, **out)  # (..., D)
    y, out_drop_back = dropout(y, rate, generator)

    def pullback(dy: Array) -> tuple[Array, dict[str, dict[str, Array]]]:
        da, dout = out_back(out_drop_back(dy))
        dx, dhidden = hidden_back(gelu_back(hidden_drop_back(da)))
        return dx, {"hidden": dhidden, "out": dout}

    return y, pullback
