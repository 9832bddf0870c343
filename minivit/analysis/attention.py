"""Attention maps over the patches, and attention rollout (Figures 6 and 14)."""

import operator

from ..arrays import Array, array_module

FUSIONS = ("mean", "max", "min")  # of the heads of a layer
SINK = 10.0  # times the uniform weight 1/T


def patch_maps(
    attention: Array, grid: tuple[int, int], query: tuple[int, int] | None = None
) -> Array:
    """Return the attention to each patch as a map over the image.

    attention (..., T, T), grid (gh, gw), query (row, column) of a patch  ->  (..., gh, gw)
    Without a query, the map is the class token's row of A without its own entry or, in a model
    without a class token (T = gh gw), the mean over all queries. Raises ValueError if T or the
    query does not fit the grid.
    """
    start = int(has_class_token(attention.shape[-1], grid))
    if query is not None:
        row = attention[..., start + patch_index(query, grid), start:]
    else:
        row = attention[..., 0, 1:] if start else attention.mean(-2)
    return row.reshape(*row.shape[:-1], *grid)


def patch_index(patch: tuple[int, int], grid: tuple[int, int]) -> int:
    """Return the index of the patch in a row and column of the grid, both counted from 0."""
    gh, gw = grid
    try:
        row, column = map(operator.index, patch)
    except (TypeError, ValueError):
        raise TypeError(f"a query must be two integers (row, column), not {patch!r}") from None
    if not (0 <= row < gh and 0 <= column < gw):
        raise ValueError(
            f"there is no patch in row {row}, column {column}: rows are 0 to {gh - 1}, "
            f"columns 0 to {gw - 1}"
        )
    return row * gw + column


def has_class_token(T: int, grid: tuple[int, int]) -> bool:
    """Return whether T tokens contain a class token in addition to the patches of a grid."""
    gh, gw = grid
    if T not in (gh * gw, gh * gw + 1):
        raise ValueError(f"{T} tokens do not fit a grid of {gh} x {gw} patches")
    return gh * gw != T


def attention_rollout(attention: Array, fusion: str = "mean", discard: float = 0.0) -> Array:
    """Multiply the attention of all layers, including the residual connections.

    attention (L, B, h, T, T)  ->  (B, T, T), from output to input tokens; rows sum to one
    A_l is the mean over the heads. The residual connection contributes the identity, so
    A'_l = (A_l + I) / 2, and R_l = A'_l R_{l-1} with R_0 = I. The result is R_L.
    (Abnar and Zuidema, Quantifying attention flow in transformers, 2020)

    Two options are those of vit-explain (Gildenblat, 2020). `fusion` combines the heads by "mean",
    "max" or "min". `discard` sets this fraction of the entries of A_l, the smallest ones, to zero,
    except the class token's attention to itself. Each row of A_l + I is then divided by its sum;
    vit-explain divides the columns by the sums of the rows.

    >>> model = minivit.ViT.load(minivit.data.SCATTERED_MODEL)
    >>> images = minivit.data.load_scattered(n=1, held_out=3).held_out_images
    >>> rollout = attention_rollout(model.attention(images))  # (3, 37, 37)
    >>> patch_maps(rollout, model.config.grid).shape
    (3, 6, 6)
    """
    if fusion not in FUSIONS:
        raise ValueError(f"unknown fusion {fusion!r}: choose {', '.join(FUSIONS)}")
    if not 0 <= discard < 1:
        raise ValueError(f"discard must be at least 0 and below 1, not {discard}")
    xp = array_module(attention)
    identity = xp.eye(attention.shape[-1], dtype=attention.dtype)
    rollout, is_mean = identity, fusion == "mean" and discard == 0
    for A in getattr(attention, fusion)(2):  # (B, T, T), first layer first
        A = discard_smallest(A, discard) + identity
        total = 2 if is_mean else A.sum(-1, keepdims=True)
        rollout = (A / total) @ rollout
    return rollout


def discard_smallest(A: Array, fraction: float) -> Array:
    """Set the smallest entries of each matrix to zero, but not the first.  (B, T, T), same shape"""
    count = int(A[0].size * fraction)
    if count == 0:
        return A
    flat = A.reshape(len(A), -1)
    rank = flat.argsort(-1).argsort(-1)  # 0 for the smallest entry
    rank[:, 0] = count
    return (flat * (rank >= count)).reshape(A.shape)


def attention_sinks(attention: Array, grid: tuple[int, int]) -> Array:
    """Find the patches that attract the attention of all queries in some layer.

    attention (L, B, h, T, T), grid (gh, gw)  ->  (B, gh, gw) of bool
    The mean weight of such a patch, over all queries and heads of the layer, is more than SINK
    times the uniform weight 1/T. (Darcet et al., Vision transformers need registers, 2024)
    """
    T = attention.shape[-1]
    received = attention.mean((2, 3)).max(0)  # (B, T)
    patches = received[:, int(has_class_token(T, grid)) :]
    return (patches > SINK / T).reshape(-1, *grid)


def safe_divide(x: Array, total: Array) -> Array:
    """Return x / total, or zero where both are zero."""
    return x / (total + (total == 0))
