"""LN of Equations 2 to 4."""

from functools import singledispatch

from ..arrays import Array, Pullback, array_module, dot_rows, dot_vector, mean_last, sum_leading


@singledispatch
def layer_norm(x: Array, scale: Array, bias: Array, eps: float = 1e-6) -> tuple[Array, Pullback]:
    """Each token at zero mean and unit variance, then rescaled:  y = scale * x_hat + bias.

    x (..., D), scale (D,), bias (D,)  ->  y (..., D)
    """
    xp = array_module(x)
    D = x.shape[-1]
    centred = x - mean_last(x)  # (..., D)
    rstd = (dot_rows(centred, centred) / D + eps) ** -0.5  # (..., 1)
    x_hat = xp.multiply(centred, rstd, out=centred)  # centred has done its work
    y = x_hat * scale
    y += bias

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        # Moving x along 1 or along x_hat changes only the mean or the variance, which x_hat
        # forgets. So those two parts are taken out of g = dy * scale, and the rest is scaled by
        # 1/σ. Their lengths, mean(g) and mean(g * x_hat), are products with the vector `scale`.
        product = dy * x_hat  # (..., D)
        dparams = {"scale": sum_leading(product), "bias": sum_leading(dy)}
        along_1, along_x_hat = dot_vector(dy, scale) / D, dot_vector(product, scale) / D
        dx = dy * scale  # g, (..., D)
        dx -= along_1
        dx -= xp.multiply(x_hat, along_x_hat, out=product)
        dx *= rstd
        return dx, dparams

    return y, pullback
