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


def mean_attention_distance(
    attention: Array, grid: tuple[int, int], patch_size: int, renormalise: bool = False
) -> Array:
    """How far each head looks: the distance from query to key, weighted by the attention.

    attention (L, B, k, T, T), grid (gh, gw), patch side P  ->  (L, k) in pixels.

    Σ_j A_ij D_ij, with D_ij the distance between the centres of patches i and j; then the mean
    over queries i and over images. The class token has no place: its row and its column are left
    out. What a patch gives to the class token thus counts as distance zero, unless `renormalise`
    lets each row sum to one again (a row that sums to nothing stays zero). Raises ValueError if
    T does not fit the grid. (Figure 7 right and Figure 11; S. Kornblith's formula, as quoted in
    the Keras examples)
    """
    xp = array_module(attention)
    gh, gw = grid
    start = int(has_class_token(attention.shape[-1], grid))
    place = xp.arange(gh * gw)
    rows, columns = place // gw, place % gw                   # (N,) each
    squares = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    distances = patch_size * xp.sqrt(squares.astype(attention.dtype))  # (N, N)
    layers = []
    for every in attention:                                   # (B, k, T, T)
        A = every[..., start:, start:]                        # (B, k, N, N)
        if renormalise:
            A = divided(A, A.sum(-1, keepdims=True))
        layers.append((A * distances).sum(-1).mean((0, 2)))   # (k,)
    return xp.stack(layers)


def divided(x: Array, total: Array) -> Array:
    """x / total, and zero where the total, and with it all that was added up, is zero."""
    return x / (total + (total == 0))
