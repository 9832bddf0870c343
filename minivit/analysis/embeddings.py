"""What the embedding has learned: which patches it looks for, and which places are alike."""

import numpy as np

from ..api import ViT
from ..arrays import Array, array_module, dot_rows, to_host
from ..models.vit import add_position_embeddings
from .attention import has_class_token, safe_divide


def position_table(model: ViT) -> Array:
    """What the model adds to each token for its place, learned or fixed, (T, D).

    Raises ValueError if it adds nothing there: positions 'none' and 'relative'.
    """
    config = model.config
    if config.positions == "none":
        raise ValueError("the model has no positions: there is no table to show")
    if config.positions == "relative":
        raise ValueError(
            "the model has relative positions: a table of offsets in each attention, "
            "and none of places to show"
        )
    nothing = array_module(model.params["patch_embedding"]["kernel"]).zeros(
        (1, config.tokens, config.width), dtype=model.dtype
    )
    return add_position_embeddings(nothing, model.params, config)[0][0]


def position_similarity(table: Array, grid: tuple[int, int]) -> Array:
    """How alike two places are to the model: the cosine between their position embeddings.

    table (T, D), a class token's entry being left out; grid (gh, gw)  ->  (gh, gw, gh, gw) from
    -1 to 1, of which [i, j] is the map for the patch in row i and column j. A vector of zeros
    is like none. Raises ValueError if T does not fit the grid. (Figure 7 centre and Figure 10)
    """
    patches = table[int(has_class_token(len(table), grid)) :]  # (N, D)
    unit = safe_divide(patches, array_module(table).sqrt(dot_rows(patches, patches)))
    return (unit @ unit.T).reshape(*grid, *grid)


def patch_filters(kernel: Array, patch_size: int, count: int = 28) -> tuple[Array, Array]:
    """The principal components of the patch embedding's filters, and what each explains.

    kernel E (P P C, D), patch side P  ->  (count, P, P, C), each scaled to go from 0 to 1, and
    (count,) its share of the filters' variance; on the host, the largest first.

    The D columns of E are the filters. From each their mean is taken away, and the components are
    the first right singular vectors of the rest, (D, P P C). A component's sign means nothing: it
    is chosen so that the entry farthest from zero is positive. Raises ValueError if there are
    fewer components than count (at most P P C and, with the mean gone, D - 1) or if P does not
    fit the kernel. (Figure 7 left; the paper does not say how, so this is the natural reading)
    """
    rows, D = kernel.shape
    if rows % patch_size**2:
        raise ValueError(f"a kernel of {rows} rows is not of patches of side {patch_size}")
    most = min(rows, D - 1)
    if not 1 <= count <= most:
        raise ValueError(f"{D} filters of {rows} numbers have 1 to {most} components, not {count}")
    filters = to_host(kernel).T.astype("float64")  # (D, P P C)
    _, lengths, components = np.linalg.svd(filters - filters.mean(0), full_matrices=False)
    chosen = components[:count]  # (count, P P C)
    farthest = abs(chosen).argmax(1)[:, None]
    chosen = chosen * np.sign(np.take_along_axis(chosen, farthest, 1))
    lowest = chosen.min(1, keepdims=True)
    scaled = safe_divide(chosen - lowest, chosen.max(1, keepdims=True) - lowest)
    shares = safe_divide(lengths**2, (lengths**2).sum())[:count]
    return scaled.reshape(count, patch_size, patch_size, -1), shares
