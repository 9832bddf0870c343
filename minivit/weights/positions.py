"""Position embeddings for another grid: section 3.2 of the paper, at a higher resolution."""

from ..arrays import Array, array_module
from ..data.resampling import resample


def resize_positions(
    table: Array, old_grid: tuple[int, int], new_grid: tuple[int, int], method: str = "aligned"
) -> Array:
    """One position embedding for each place of another grid, interpolated by where it lies.

    table (T, D), old grid (gh, gw)  ->  (T', D) of the same dtype, for the new grid. A class
    token's row, the first of T = gh gw + 1, has no place and stays as it is.

    method: of `minivit.resampling`. The authors align the corners, timm reads with "antialiased",
    Hugging Face with "bicubic". Raises ValueError if T does not fit the old grid, for an unknown
    method, or for a grid without places.
    """
    (gh, gw), (T, D) = old_grid, table.shape
    if T not in (gh * gw, gh * gw + 1):
        raise ValueError(f"{T} positions do not fit a grid of {gh} x {gw} patches")
    first = T - gh * gw
    # In float64: a table is small, and what is rounded here is rounded in every token
    patches = table[first:].astype("float64").reshape(gh, gw, D)
    resized = resample(patches, new_grid, method).reshape(-1, D).astype(table.dtype)
    return array_module(table).concatenate([table[:first], resized])
