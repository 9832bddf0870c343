"""How far does each head look? (Figure 7 right and Figure 11)"""

from ..arrays import Array, array_module
from .attention import has_class_token, safe_divide


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
    rows, columns = place // gw, place % gw  # (N,) each
    squares = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    distances = patch_size * xp.sqrt(squares.astype(attention.dtype))  # (N, N)
    layers = []
    for every in attention:  # (B, k, T, T)
        A = every[..., start:, start:]  # (B, k, N, N)
        if renormalise:
            A = safe_divide(A, A.sum(-1, keepdims=True))
        layers.append((A * distances).sum(-1).mean((0, 2)))  # (k,)
    return xp.stack(layers)
