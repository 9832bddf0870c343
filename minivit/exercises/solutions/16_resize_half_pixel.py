"""Positions for another grid, by where the patches' centres lie.

    new[i, j] = Σ_rc  max(0, 1 - |u - r|) · max(0, 1 - |v - c|) · old[r, c]

Row i of g' has its centre at (i + 1/2) / g' of the side, and on the old grid of g rows that is
u = (i + 1/2) g / g' - 1/2; likewise v for column j. A centre beyond the outermost old one reads
that one: u is clipped to 0 ... g - 1. The class token's row, the first of the table, has no place
and stays as it is.
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Write the matrix of one axis first, (new, old): its row i has the weights with which the new\n"
    "place i reads the old ones. One such matrix goes along the rows, one along the columns.",
    "Everything is linear in the table. So the pullback is two transposed matrices, and the class\n"
    "token's gradient comes through as it is.",
    "    places = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)\n"
    "    weights = (1 - abs(np.arange(old) - places[:, None])).clip(0)\n"
    "Along the rows, reshape the patches to (gh, gw D) and multiply from the left; then, as\n"
    "(h, gw, D), multiply by the columns' matrix from the left.",
)


def half_pixel(old: int, new: int) -> Array:
    """The weights with which `new` places on an axis read `old` ones, (new, old)."""
    places = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
    return (1 - abs(np.arange(old) - places[:, None])).clip(0)


def resize_half_pixel(
    table: Array, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> tuple[Array, Pullback]:
    """Resize the positions of the patches; the class token keeps its own.

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
    """The value, place by place."""
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
    """Inputs to grade it on: larger, rectangular, and smaller along one side."""
    sets = [((2, 3), (3, 5), 4), ((3, 4), (5, 2), 3), ((2, 2), (2, 4), 3)]
    return [(rng.normal(size=(1 + old[0] * old[1], D)), old, new) for old, new, D in sets]
