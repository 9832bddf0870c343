"""Half-pixel resizing: interpolate position embeddings between the centres of patches.

    new[i, j] = Σ_rc  max(0, 1 - |u - r|) · max(0, 1 - |v - c|) · old[r, c]

Row i of a grid with g' rows has its centre at (i + 1/2) / g' of the image height. In the old grid
with g rows, this is the row coordinate u = (i + 1/2) g / g' - 1/2; the column coordinate v is
computed in the same way. u is clipped to 0 ... g - 1, so a centre outside of the old grid takes the
value at the border. The class token, the first row of the table, has no position and is unchanged.
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "First write a function that returns the interpolation matrix of one axis, (new, old). Its\n"
    "row i contains the weights of the old positions for the new position i. Apply one matrix\n"
    "along the rows and another along the columns.",
    "The result is linear in the table, so the pullback consists of the two transposed matrices.\n"
    "The gradient of the class token is passed on unchanged.",
    "    positions = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)\n"
    "    weights = (1 - abs(np.arange(old) - positions[:, None])).clip(0)\n"
    "For the rows, reshape the patches to (gh, gw D) and multiply from the left. Then reshape to\n"
    "(h, gw, D) and multiply by the matrix of the columns from the left.",
)


def half_pixel(old: int, new: int) -> Array:
    """Return the interpolation weights from `old` to `new` positions on an axis, (new, old)."""
    positions = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
    return (1 - abs(np.arange(old) - positions[:, None])).clip(0)


def resize_half_pixel(
    table: Array, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> tuple[Array, Pullback]:
    """Resize the position embeddings of the patches and keep that of the class token.

    table (1 + gh gw, D), old grid (gh, gw), new grid (h, w)  ->  (1 + h w, D)
    The pullback returns dtable.
    """
    (gh, gw), (h, w), D = old_grid, new_grid, table.shape[-1]
    rows, columns = half_pixel(gh, h), half_pixel(gw, w)  # (h, gh), (w, gw)
    taller = rows @ table[1:].reshape(gh, gw * D)  # (h, gw D)
    resized = columns @ taller.reshape(h, gw, D)  # (h, w, D)

    def pullback(dy):
        dtaller = columns.T @ dy[1:].reshape(h, w, D)  # (h, gw, D)
        dpatches = rows.T @ dtaller.reshape(h, gw * D)  # (gh, gw D)
        return np.concatenate([dy[:1], dpatches.reshape(gh * gw, D)])

    return np.concatenate([table[:1], resized.reshape(h * w, D)]), pullback


def expected(table: Array, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Array:
    """Compute the value position by position."""
    (gh, gw), (h, w) = old_grid, new_grid
    resized = np.zeros((1 + h * w, table.shape[-1]))
    resized[0] = table[0]
    for i, j in np.ndindex(h, w):
        u = min(max((i + 0.5) * gh / h - 0.5, 0), gh - 1)
        v = min(max((j + 0.5) * gw / w - 0.5, 0), gw - 1)
        for r, c in np.ndindex(gh, gw):
            weight = max(0, 1 - abs(u - r)) * max(0, 1 - abs(v - c))
            resized[1 + i * w + j] += weight * table[1 + r * gw + c]
    return resized


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return inputs for a larger grid, and for grids that grow along one axis only."""
    sets = [((2, 3), (3, 5), 4), ((3, 4), (5, 2), 3), ((2, 2), (2, 4), 3)]
    return [(rng.normal(size=(1 + old[0] * old[1], D)), old, new) for old, new, D in sets]
