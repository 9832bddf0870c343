"""Filters and the similarity of position embeddings (Figure 7 left and centre, Figure 10)."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...arrays import Array
from .figure import SIGNED_COLOURS, create_axes, show_image

COLUMNS = 7  # filters per row, as in Figure 7
SIDE, SPACING = 6.0, 0.35  # inches: longer side of the grid of maps, and between two tick labels


def plot_similarity(similarity: Array, ax: Axes | None = None) -> Figure:
    """Plot one map per patch: the similarity of its position embedding to all others.

    similarity (gh, gw, gh, gw), from `position_similarity`. It is drawn into `ax` if that is given.
    """
    gh, gw = similarity.shape[:2]
    gap = ((0, 0), (0, 0), (0, 1), (0, 1))  # an empty row and column after each map
    maps = np.pad(similarity, gap, constant_values=np.nan)
    mosaic = maps.swapaxes(1, 2).reshape(gh * (gh + 1), gw * (gw + 1))[:-1, :-1]
    height, width = (max(2.0, SIDE * n / max(mosaic.shape)) for n in mosaic.shape)
    figure, axis = create_axes(ax, figsize=(width + 1.5, height + 0.6))
    image = axis.imshow(mosaic, cmap=SIGNED_COLOURS, vmin=-1, vmax=1)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="column of the patch", ylabel="row of the patch")
    for ticks, n in ((axis.xaxis, gw), (axis.yaxis, gh)):
        per_patch = SIDE * (n + 1) / max(mosaic.shape)  # inches
        labelled = np.arange(0, n, math.ceil(SPACING / per_patch))
        ticks.set_ticks(labelled * (n + 1) + (n - 1) / 2, labelled + 1)
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, label="cosine similarity", ticks=[-1, -0.5, 0, 0.5, 1])
    return figure


def plot_filters(filters: Array, explained: Array, ax: Axes | None = None) -> Figure:
    """Plot the principal components of the filters, the first at the top left.

    filters (count, P, P, C) from 0 to 1 and explained (count,), from `patch_filters`. They are
    drawn into `ax` if that is given.
    """
    count, P, Q, C = filters.shape
    columns, gap = min(count, COLUMNS), max(1, P // 8)
    rows = -(-count // columns)
    padding = (0, rows * columns - count), (0, gap), (0, gap), (0, 0)
    tiles = np.pad(filters, padding, constant_values=1)  # white
    tiles[count:] = 1
    mosaic = tiles.reshape(rows, columns, P + gap, Q + gap, C).swapaxes(1, 2)
    mosaic = mosaic.reshape(rows * (P + gap), columns * (Q + gap), C)[:-gap, :-gap]
    figure, axis = create_axes(ax, figsize=(max(columns, 6), rows * P / Q + 0.5))
    title = f"{count} principal components of the filters: {explained.sum():.0%} of the variance"
    show_image(axis, 2 * mosaic - 1)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()
    return figure
