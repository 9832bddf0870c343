"""Where does the model look? Attention maps per head, rollout, and how far the heads look."""

from ..arrays import Array, array_module


def patch_maps(attention: Array, grid: tuple[int, int]) -> Array:
    """What the class token looks at: its row of A, without itself, as a map over the image.

    attention (..., T, T), grid (gh, gw)  ->  (..., gh, gw)

    Without a class token (T = gh gw) it is the mean over all patches that look. Raises ValueError
    if T fits neither.
    """
    if has_class_token(attention.shape[-1], grid):
        row = attention[..., 0, 1:]
    else:
        row = attention.mean(-2)
    return row.reshape(*row.shape[:-1], *grid)


def has_class_token(T: int, grid: tuple[int, int]) -> bool:
    """Whether T tokens are a class token and the patches of a grid (gh, gw), or these alone.

    Raises ValueError if they are neither.
    """
    gh, gw = grid
    if T not in (gh * gw, gh * gw + 1):
        raise ValueError(f"{T} tokens do not fit a grid of {gh} x {gw} patches")
    return gh * gw != T


def attention_rollout(attention: Array) -> Array:
    """How attention flows from the output back to the input, through all layers.

    attention (L, B, k, T, T)  ->  (B, T, T), each row summing to one.

    A_l is the mean over the heads; half of each token passes through the residual connection, so
    A'_l = (A_l + I) / 2; and R_l = A'_l R_{l-1}, with R_0 = I. (Abnar and Zuidema, 2020; Figure 6)
    """
    xp = array_module(attention)
    identity = xp.eye(attention.shape[-1], dtype=attention.dtype)
    flow = identity
    for A in attention.mean(2):  # (B, T, T), the first layer first
        flow = ((A + identity) / 2) @ flow
    return flow


def safe_divide(x: Array, total: Array) -> Array:
    """x / total, and zero where the total, and with it all that was added up, is zero."""
    return x / (total + (total == 0))
