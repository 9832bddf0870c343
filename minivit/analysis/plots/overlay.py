"""Attention laid over a photograph: dark and grey where nobody looks, glowing where many do."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from ...arrays import Array
from ...data.resampling import resample
from ..attention import safe_divide
from .attention import attention_maps, save_figure, show_image, wrapped

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ACROSS = 5  # panels side by side, or all of them if there are but a few
FEW = 7
PANEL, GAP = 1.92, 0.08  # inches: a panel's width, and between two of them
LETTERS = 28  # of a name in a line above a panel
LINE = 0.145  # inches of such a line
BELOW = 0.35  # inches under the last row, for the caption
BRIGHT = 0.97  # of a map's entries are not at its upper end: a patch or two would hide the others
LUMINANCE = (0.299, 0.587, 0.114)  # how bright red, green and blue are to the eye
FAINT, STRONG = 0.3, 0.8  # how much of the picture the glow covers, where least and most is seen
CAPTION = "each map from its lowest value, dark, to the one that 3% of its patches exceed, bright"


def plot_overlays(
    images: Array,
    attention: Array,
    grid: tuple[int, int],
    path: str | Path,
    titles: Sequence[str] = (),
    layer: int = -1,
    gradients: Array | None = None,
) -> None:
    """For each photograph: itself, then under the rollout and under each head of one layer.

    images (B, H, W, 3) in [-1, 1], attention (L, B, k, T, T), grid (gh, gw). With gradients
    (L, B, k, T, T) the gradient-weighted attention follows the rollout.
    """
    maps = attention_maps(attention, grid, layer, gradients)  # (B, gh, gw) each
    panels = len(maps) + 1
    columns = panels if panels <= FEW else ACROSS
    B, H, W = images.shape[:3]
    titles = [wrapped(title, LETTERS) for title in titles]
    lines = np.ones((B, -(-panels // columns)), dtype=int)  # above each row of each photograph
    lines[: len(titles), 0] = [title.count("\n") + 1 for title in titles[:B]]
    figure, axes = panels_below(lines.ravel(), columns, PANEL * H / W)
    for b, block in enumerate(axes.reshape(B, -1)):
        show_image(block[0], images[b])
        if b < len(titles):
            name_panel(block[0], titles[b])
        for axis, (name, one) in zip(block[1:], maps.items(), strict=False):
            show_image(axis, overlay(images[b], one[b]))
            name_panel(axis, name)
    caption = {"fontsize": 8, "color": "0.4", "y": 0.5 * BELOW / figure.get_figheight()}
    figure.supxlabel(CAPTION, va="center", **caption)
    save_figure(figure, path)


def panels_below(lines: Array, columns: int, height: float) -> tuple[plt.Figure, Array]:
    """Rows of panels of a height in inches, each below so many lines of text.

    lines (rows,)  ->  the figure and its axes (rows, columns)
    """
    above = LINE * lines + 2 * GAP  # (rows,)
    lower = above.sum() + height * len(lines) + BELOW - (above + height).cumsum()
    size = np.array([columns * (PANEL + GAP), lower[0] + height + above[0]])
    figure = plt.figure(figsize=tuple(size))
    axes = np.empty((len(lines), columns), dtype=object)
    for r, c in np.ndindex(axes.shape):
        left = c * (PANEL + GAP) + GAP / 2
        place = [left, lower[r]] / size
        axes[r, c] = figure.add_axes((*place, *([PANEL, height] / size)))
        axes[r, c].set_axis_off()
    return figure, axes


def name_panel(axis: plt.Axes, text: str) -> None:
    """Write a text above a panel, letter by letter as it is."""
    axis.set_title(text, fontsize=8.5, parse_math=False)


def overlay(image: Array, one: Array) -> Array:
    """A map over a picture.  image (H, W, 3) in [-1, 1], map (gh, gw)  ->  (H, W, 3) in [-1, 1]

    Between the patches' centres the map is interpolated in straight lines.
    """
    glow = resample(brightness(one)[..., None], image.shape[:2], "bilinear")  # (H, W, 1)
    heat = 2 * matplotlib.colormaps["inferno"](glow[..., 0])[..., :3] - 1
    grey = image.astype(np.float64) @ np.array(LUMINANCE)  # (H, W)
    covered = FAINT + (STRONG - FAINT) * glow
    return grey[..., None] * (1 - covered) + heat * covered


def brightness(one: Array) -> Array:
    """A map (gh, gw) from 0 at its lowest entry to 1 where it is BRIGHT; the same all over: 0."""
    raised = one.astype(np.float64) - one.min()
    top = np.quantile(raised, BRIGHT)
    return safe_divide(raised, top or raised.max()).clip(0, 1)
