"""Group normalisation, the norm of the hybrid's ResNet."""

from ..arrays import Array, Pullback, array_module, matmul, sum_last, widen_float16


@widen_float16
def group_norm(
    x: Array, scale: Array, bias: Array, groups: int = 32, eps: float = 1e-6
) -> tuple[Array, Pullback]:
    """Give each group of channels of each image zero mean and unit variance, then scale and shift.

    x (B, H, W, C), scale (C,), bias (C,)  ->  y (B, H, W, C)    (Wu and He, 2018)
    A group consists of C / groups adjacent channels and all pixels of an image. Raises ValueError
    if C is not a multiple of `groups`.
    """
    xp = array_module(x)
    B, H, W, C = x.shape
    if C % groups:
        raise ValueError(f"{C} channels are not a multiple of {groups} groups")
    flat = x.reshape(B, H * W, C)
    centred = flat - group_mean(channel_sums(flat), groups, H * W)  # (B, H W, C)
    variance = group_mean(channel_sums(centred * centred), groups, H * W)
    rstd = (variance + eps) ** -0.5  # (B, 1, C)
    x_hat = xp.multiply(centred, rstd, out=centred)  # reuse the memory of `centred`
    y = x_hat * scale
    y += bias

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        # As in layer norm, with a group instead of a token. The sums over the pixels of a channel
        # give dscale, dbias and the group means.
        drows = dy.reshape(B, H * W, C)
        product = drows * x_hat  # (B, H W, C)
        dscale, dbias = channel_sums(product), channel_sums(drows)  # (B, 1, C)
        along_1 = group_mean(dbias * scale, groups, H * W)
        along_x_hat = group_mean(dscale * scale, groups, H * W)
        dx = drows * scale
        dx -= along_1
        dx -= xp.multiply(x_hat, along_x_hat, out=product)
        dx *= rstd
        return dx.reshape(B, H, W, C), {"scale": dscale.sum((0, 1)), "bias": dbias.sum((0, 1))}

    return y.reshape(B, H, W, C), pullback


def channel_sums(flat: Array) -> Array:
    """Sum each channel over the pixels, (B, H W, C) -> (B, 1, C)."""
    return matmul(array_module(flat).ones((1, flat.shape[1]), dtype=flat.dtype), flat)


def group_mean(sums: Array, groups: int, pixels: int) -> Array:
    """Mean of each channel's group, from sums over the pixels, (B, 1, C) -> (B, 1, C)."""
    B, _, C = sums.shape
    means = sum_last(sums.reshape(B, groups, C // groups)) / (pixels * (C // groups))
    return array_module(sums).broadcast_to(means, (B, groups, C // groups)).reshape(B, 1, C)
