"""Attention maps over the patches, and attention rollout (Figures 6 and 14)."""

from ..arrays import Array, array_module


def patch_maps(attention: Array, grid: tuple[int, int]) -> Array:
    """Return the attention to each patch as a map over the image.

    attention (..., T, T), grid (gh, gw)  ->  (..., gh, gw)
    With a class token, the map is the token's row of A without its own entry. Without one
    (T = gh gw), it is the mean over all queries. Raises ValueError if T does not fit the grid.
    """
    T = attention.shape[-1]
    row = attention[..., 0, 1:] if has_class_token(T, grid) else attention.mean(-2)
    return row.reshape(*row.shape[:-1], *grid)


def has_class_token(T: int, grid: tuple[int, int]) -> bool:
    """Return whether T tokens contain a class token in addition to the patches of a grid."""
    gh, gw = grid
    if T not in (gh * gw, gh * gw + 1):
        raise ValueError(f"{T} tokens do not fit a grid of {gh} x {gw} patches")
    return gh * gw != T


def attention_rollout(attention: Array) -> Array:
    """Multiply the attention of all layers, including the residual connections.

    attention (L, B, h, T, T)  ->  (B, T, T), from output to input tokens; rows sum to one
    A_l is the mean over the heads. The residual connection contributes the identity, so
    A'_l = (A_l + I) / 2, and R_l = A'_l R_{l-1} with R_0 = I. The result is R_L.
    (Abnar and Zuidema, Quantifying attention flow in transformers, 2020)

    >>> model = minivit.ViT.load(minivit.data.SCATTERED_MODEL)
    >>> images = minivit.data.load_scattered(n=1, held_out=3).held_out_images
    >>> rollout = attention_rollout(model.attention(images))  # (3, 37, 37)
    >>> patch_maps(rollout, model.config.grid).shape
    (3, 6, 6)
    """
    xp = array_module(attention)
    identity = xp.eye(attention.shape[-1], dtype=attention.dtype)
    rollout = identity
    for A in attention.mean(2):  # (B, T, T), first layer first
        rollout = ((A + identity) / 2) @ rollout
    return rollout


def safe_divide(x: Array, total: Array) -> Array:
    """Return x / total, or zero where both are zero."""
    return x / (total + (total == 0))
