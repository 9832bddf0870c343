"""The norm of the hybrid's ResNet: as layer norm is, and batch norm is not, an image's own."""

from ..arrays import Array, Pullback, array_module, matmul, sum_last


def group_norm(
    x: Array, scale: Array, bias: Array, groups: int = 32, eps: float = 1e-6
) -> tuple[Array, Pullback]:
    """Each group of channels of each image at zero mean and unit variance, then rescaled.

    x (B, H, W, C), scale (C,), bias (C,)  ->  y (B, H, W, C). A group is C / groups channels that
    lie side by side; mean and variance are taken over them and over the whole map. Raises
    ValueError if the groups do not share C. (Wu and He, 2018)
    """
    xp = array_module(x)
    B, H, W, C = x.shape
    if C % groups:
        raise ValueError(f"{C} channels cannot be shared among {groups} groups")
    flat = x.reshape(B, H * W, C)
    centred = flat - mean_of_group(channel_sums(flat), groups, H * W)  # (B, H W, C)
    variance = mean_of_group(channel_sums(centred * centred), groups, H * W)
    rstd = (variance + eps) ** -0.5  # (B, 1, C)
    x_hat = xp.multiply(centred, rstd, out=centred)  # centred has done its work
    y = x_hat * scale
    y += bias

    def pullback(dy: Array) -> tuple[Array, dict[str, Array]]:
        # Layer norm's pullback, where a group of one image stands for a token. What each channel
        # sums up over the map serves twice: for its scale and bias, and for its group's means.
        drows = dy.reshape(B, H * W, C)
        product = drows * x_hat  # (B, H W, C)
        dscale, dbias = channel_sums(product), channel_sums(drows)  # (B, 1, C)
        along_1 = mean_of_group(dbias * scale, groups, H * W)
        along_x_hat = mean_of_group(dscale * scale, groups, H * W)
        dx = drows * scale
        dx -= along_1
        dx -= xp.multiply(x_hat, along_x_hat, out=product)
        dx *= rstd
        return dx.reshape(B, H, W, C), {"scale": dscale.sum((0, 1)), "bias": dbias.sum((0, 1))}

    return y.reshape(B, H, W, C), pullback


def channel_sums(flat: Array) -> Array:
    """The sum of each channel over the map, (B, H W, C) -> (B, 1, C)."""
    return matmul(array_module(flat).ones((1, flat.shape[1]), dtype=flat.dtype), flat)


def mean_of_group(sums: Array, groups: int, places: int) -> Array:
    """From sums of channels over so many places, (B, 1, C), for each the mean of its group."""
    B, _, C = sums.shape
    means = sum_last(sums.reshape(B, groups, C // groups)) / (places * (C // groups))
    return array_module(sums).broadcast_to(means, (B, groups, C // groups)).reshape(B, 1, C)
