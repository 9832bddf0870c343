"""Where does the model look? Attention maps per head, and attention rollout."""

from ..arrays import Array, array_module


def patch_maps(attention: Array, grid: tuple[int, int]) -> Array:
    """What the class token looks at: its row of A, without itself, as a map over the image.

    attention (..., T, T), grid (gh, gw)  ->  (..., gh, gw)

    Without a class token (T = gh gw) it is the mean over all patches that look. Raises ValueError
    if T fits neither.
    """
    gh, gw = grid
    T = attention.shape[-1]
    if gh * gw == T:
        row = attention.mean(-2)
    elif gh * gw + 1 == T:
        row = attention[..., 0, 1:]
    else:
        raise ValueError(f"{T} tokens do not fit a grid of {gh} x {gw} patches")
    return row.reshape(*row.shape[:-1], gh, gw)


def rollout(attention: Array) -> Array:
    """How attention flows from the output back to the input, through all layers.

    attention (L, B, k, T, T)  ->  (B, T, T), each row summing to one.

    A_l is the mean over the heads; half of each token passes through the residual connection, so
    A'_l = (A_l + I) / 2; and R_l = A'_l R_{l-1}, with R_0 = I. (Abnar and Zuidema, 2020; Figure 6)
    """
    xp = array_module(attention)
    identity = xp.eye(attention.shape[-1], dtype=attention.dtype)
    flow = identity
    for A in attention.mean(2):                               # (B, T, T), the first layer first
        flow = ((A + identity) / 2) @ flow
    return flow
