"""Position embeddings and patch embedding filters (Figure 7 left and centre, Figure 10)."""

import numpy as np

from ..api import ViT
from ..arrays import Array, array_module, dot_rows, to_host
from ..models.vit import add_position_embeddings
from .attention import has_class_token, safe_divide


def position_table(model: ViT) -> Array:
    """Return the position embeddings that a model adds to its tokens, learned or fixed, (T, D)."""
    config, positions = model.config, model.config.positions
    if positions in ("none", "relative"):
        raise ValueError(f"a model with positions='{positions}' has no table of embeddings to show")
    tokens = model.xp.zeros((1, config.tokens, config.width), dtype=model.dtype)
    return add_position_embeddings(tokens, model.params, config)[0][0]


def position_similarity(table: Array, grid: tuple[int, int]) -> Array:
    """Compute the cosine similarity of the position embeddings of all pairs of patches.

    table (T, D), grid (gh, gw)  ->  (gh, gw, gh, gw), from -1 to 1
    Entry [i, j] is the map of the patch in row i and column j. The class token's embedding is
    omitted. The similarity to a zero vector is 0. Raises ValueError if T does not fit the grid.
    (Figure 7 centre and Figure 10)
    """
    patches = table[int(has_class_token(len(table), grid)) :]  # (N, D)
    unit = safe_divide(patches, array_module(table).sqrt(dot_rows(patches, patches)))
    return (unit @ unit.T).reshape(*grid, *grid)


def patch_filters(kernel: Array, patch_size: int, count: int = 28) -> tuple[Array, Array]:
    """Compute the first principal components of the patch embedding's filters.

    kernel E (P P C, D), patch side P  ->  components (count, P, P, C), scaled to [0, 1], and the
    fraction of the variance that each explains (count,), both on the host
    The filters are the columns of E minus their mean. The components are the right singular vectors
    of the (D, P P C) matrix, with the sign that makes the entry of largest magnitude positive.
    Raises ValueError if P does not fit the kernel, or unless 1 <= count <= min(P P C, D - 1).
    (Figure 7 left; the paper does not describe its procedure)
    """
    rows, D = kernel.shape
    if rows % patch_size**2:
        raise ValueError(f"a kernel with {rows} rows does not fit patches of side {patch_size}")
    limit = min(rows, D - 1)
    if not 1 <= count <= limit:
        raise ValueError(f"count must be 1 to {limit} for {D} filters of {rows} entries: {count}")
    filters = to_host(kernel).T.astype("float64")  # (D, P P C)
    _, singular, components = np.linalg.svd(filters - filters.mean(0), full_matrices=False)
    components = components[:count]  # (count, P P C)
    low, high = components.min(1, keepdims=True), components.max(1, keepdims=True)
    scaled = safe_divide(np.where(high >= -low, components - low, high - components), high - low)
    explained = safe_divide(singular**2, (singular**2).sum())[:count]
    return scaled.reshape(count, patch_size, patch_size, -1), explained
