"""The paper's figures of what a model has learned, and attention beside its gradients."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from ...arrays import Array
from ..attention import patch_maps
from .attention import (
    BETWEEN,
    DPI,
    LOWEST,
    beside,
    count_whole,
    outline,
    save_figure,
    show_image,
    show_map,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ACROSS = 7  # filters side by side, as in Figure 7
MOSAIC = 500  # pixels of the grid of grids at least, on its longer side
LABELS = 160  # pixels of its sides at least, so that there is place for what they are called
NUMBER = 44  # pixels from one of its numbers to the next at least
HAIR = 1e-6  # of a pixel: by a rounding more than whole, Matplotlib 3.10 draws one pixel more
LEGEND = "purple: looking there\nraises the logit\norange: lowers it"


def plot_distances(distances: Array, uniform: float, path: str | Path) -> None:
    """One dot for each head: how far it looks, by layer. (Figure 7 right and Figure 11)

    distances (L, k) in pixels; uniform is what a head has that looks everywhere alike.
    """
    L, k = distances.shape
    layers = np.arange(1, L + 1)
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.axhline(uniform, color="0.4", ls="--", label="uniform attention")
    for h in range(k):
        label = f"one of {k} heads" if h == 0 else None
        axis.plot(layers, distances[:, h], "o", color="C0", mec="white", ms=8, label=label)
    axis.set(xlabel="layer", ylabel="mean attention distance (pixels)")
    axis.set(xlim=(0.5, L + 0.5), ylim=(0, 1.08 * max(uniform, float(distances.max()))))
    count_whole(axis.xaxis)
    axis.legend(loc="lower right")
    save_figure(figure, path)


def plot_similarity(similarity: Array, path: str | Path) -> None:
    """A grid of small grids: how alike each place is to all others. (Figure 7 centre, Figure 10)

    similarity (gh, gw, gh, gw), cosines, of `position_similarity`.
    """
    gh, gw = similarity.shape[:2]
    tiles = np.full((gh, gh + 1, gw, gw + 1), np.nan)  # one more line, empty, as a gap
    tiles[:, :gh, :, :gw] = similarity.transpose(0, 2, 1, 3)
    mosaic = tiles.reshape(gh * (gh + 1), gw * (gw + 1))[:-1, :-1]
    side = -(-MOSAIC // max(mosaic.shape))  # pixels of an entry: all alike
    figure, axis, bar = mosaic_axes(side * mosaic.shape[0], side * mosaic.shape[1])
    shown = axis.imshow(mosaic, cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
    axis.spines[:].set_visible(False)
    axis.set(xlabel="the patch's column", ylabel="the patch's row")
    for one, g in ((axis.xaxis, gw), (axis.yaxis, gh)):
        places = np.arange(0, g, -(-NUMBER // (side * (g + 1))))
        one.set_ticks(places * (g + 1) + (g - 1) / 2, places + 1)
    axis.tick_params(length=0)
    figure.colorbar(shown, bar, label="cosine similarity", ticks=[-1, -0.5, 0, 0.5, 1])
    save_figure(figure, path)


def mosaic_axes(height: int, width: int) -> tuple[plt.Figure, plt.Axes, plt.Axes]:
    """A figure with an axis of just so many pixels, and one beside it for the colours."""
    tall, wide = max(height, LABELS), max(width, LABELS)  # the place for it, and the figure's
    size = np.array([wide + 230, tall + 90])
    figure = plt.figure(figsize=tuple(size / DPI))
    places = [
        [80 + (wide - width) // 2, 70 + (tall - height) // 2, width - HAIR, height - HAIR],
        [80 + wide + 25, 70, 25, tall],
    ]
    axis, bar = (figure.add_axes((*(np.array(p).reshape(2, 2) / size).flat,)) for p in places)
    return figure, axis, bar


def plot_filters(filters: Array, shares: Array, path: str | Path) -> None:
    """The filters' principal components, the largest first, row by row. (Figure 7 left)

    filters (count, P, P, C) from 0 to 1 and shares (count,), of `patch_filters`.
    """
    rows = -(-len(filters) // ACROSS)
    size = (7, rows + 0.5)
    figure, axes = plt.subplots(rows, ACROSS, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, one in zip(axes.flat, filters, strict=False):
        show_image(axis, 2 * one - 1)
    text = f"{len(filters)} principal components of the filters: {shares.sum():.0%} of the variance"
    figure.suptitle(text, fontsize=10)
    save_figure(figure, path)


def plot_gradients(
    images: Array,
    attention: Array,
    gradients: Array,
    grid: tuple[int, int],
    path: str | Path,
    titles: Sequence[str] = (),
    layer: int = -1,
    boxes: Array | None = None,
) -> None:
    """Two rows for each image: what each head of one layer looks at, and which looks mattered.

    images (B, H, W, C) in [-1, 1]; attention and gradients (L, B, k, T, T), A and dA; grid
    (gh, gw). Each map of A is scaled to its own largest value, each of dA to its entry
    farthest from zero. Boxes (B, 4) in pixels are outlined.
    """
    A, dA = patch_maps(attention[layer], grid), patch_maps(gradients[layer], grid)
    B, k = A.shape[:2]  # (B, k, gh, gw)
    number = range(len(attention))[layer] + 1
    H, W = images.shape[1:3]
    height = max(1.3 * H / W, LOWEST / 2)  # a name stands beside two rows
    titles, more = beside(titles, 2 * height)
    size = (1.45 * (k + 1) + 0.2 + more, 2 * (height + BETWEEN) * B + 0.35)
    figure, axes = plt.subplots(2 * B, k + 1, figsize=size, squeeze=False, layout="constrained")
    for b in range(B):
        upper, lower = axes[2 * b], axes[2 * b + 1]
        show_image(upper[0], images[b])
        lower[0].set_axis_off()
        if b < len(titles):
            upper[0].set_ylabel(titles[b], fontsize=9, parse_math=False, y=0)
        upper[1].set_ylabel("A", fontsize=9)
        lower[1].set_ylabel("dA", fontsize=9)
        for h in range(k):
            largest = abs(dA[b, h]).max() or 1
            show_map(upper[h + 1], A[b, h], (H, W), cmap="viridis", vmin=0)
            signed = {"cmap": "PuOr", "vmin": -largest, "vmax": largest}
            show_map(lower[h + 1], dA[b, h], (H, W), **signed)
        if boxes is not None:
            outline([*upper, *lower[1:]], boxes[b])
    axes[1, 0].text(0.5, 0.5, LEGEND, fontsize=8, ha="center", va="center")
    names = ["image", *(f"layer {number}, head {h + 1}" for h in range(k))]
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=9)
    save_figure(figure, path)
