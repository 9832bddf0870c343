"""Layer normalisation, LN of Equations 2 to 4."""

from functools import singledispatch

from ..arrays import (
    Array,
    Pullback,
    array_module,
    dot_rows,
    dot_vector,
    mean_last,
    sum_leading,
    widen_float16,
)


@singledispatch
@widen_float16
def layer_norm(x: Array, scale: Array, bias: Array, eps: float = 1e-6) -> tuple[Array, Pullback]:
    """Give each token zero mean and unit variance, then scale and shift:  y = scale * x_hat + bias.

    x (..., D), scale (D,), bias (D,)  ->  y (..., D)
    """
    xp = array_module(x)
    D = x.shape[-1]
    centred = x - mean_last(x)  # (..., D)
    rstd = (dot_rows(centred, centred) / D + eps) ** -0.5  # (..., 1)
    x_hat = xp.multiply(centred, rstd, out=centred)  # reuse the memory of `centred`
    y = x_hat * scale
    y += bias

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        # x_hat is invariant to shifts of x and to scaling x about its mean. The gradient of x
        # therefore has no component along 1 or along x_hat: remove both components from
        # g = dy * scale. They are mean(g) and mean(g * x_hat), computed as products with `scale`.
        product = dy * x_hat  # (..., D)
        dparams = {"scale": sum_leading(product), "bias": sum_leading(dy)}
        along_1, along_x_hat = dot_vector(dy, scale) / D, dot_vector(product, scale) / D
        dx = dy * scale  # g, (..., D)
        dx -= along_1
        dx -= xp.multiply(x_hat, along_x_hat, out=product)
        dx *= rstd
        return dx, dparams

    return y, pullback
