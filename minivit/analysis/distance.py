"""Mean attention distance (Figure 7 right and Figure 11)."""

from ..arrays import Array, array_module
from .attention import has_class_token, safe_divide


def mean_attention_distance(
    attention: Array, grid: tuple[int, int], patch_size: int, renormalise: bool = False
) -> Array:
    """Return the mean distance from query to key of each head, weighted by the attention.

    attention (L, B, h, T, T), grid (gh, gw), patch side P  ->  (L, h) in pixels
    This is the mean of Σ_j A_ij D_ij over queries i and images, where D_ij is the distance between
    the centres of patches i and j. The class token has no position, so its row and column are
    omitted. Attention to it counts as distance zero, unless `renormalise` scales each row to sum to
    one. Raises ValueError if T does not fit the grid. (S. Kornblith, quoted in the Keras examples)
    """
    xp = array_module(attention)
    gh, gw = grid
    start = int(has_class_token(attention.shape[-1], grid))
    patch = xp.arange(gh * gw)
    rows, columns = patch // gw, patch % gw  # (N,)
    squared = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    D = patch_size * xp.sqrt(squared.astype(attention.dtype))  # (N, N)
    distances = []
    for layer in attention:  # (B, h, T, T)
        A = layer[..., start:, start:]  # (B, h, N, N)
        if renormalise:
            A = safe_divide(A, A.sum(-1, keepdims=True))
        distances.append((A * D).sum(-1).mean((0, 2)))  # (h,)
    return xp.stack(distances)
