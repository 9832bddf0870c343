"""Save a figure, and draw panels with images, maps and boxes."""

import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from ...arrays import Array
from ...files import write_atomically

DPI = 120
PANEL, GAP, LINE = 1.6, 1 / 12, 0.15  # inches: a panel, the gap between two, a line of a title
BLANK = {"xticks": [], "yticks": [], "frame_on": False}  # an empty panel
TITLE_LENGTH = 23  # characters of 9 points per line above a panel


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure as a PNG file with reproducible bytes, and close it if pyplot created it.

    The file is written atomically. Characters that the font lacks are drawn as boxes.
    """
    try:
        with warnings.catch_warnings():
            no_glyph = r"Glyph .* missing from|Matplotlib currently does not support"
            warnings.filterwarnings("ignore", no_glyph)
            style: Any = {
                "dpi": DPI,
                "format": "png",
                "metadata": {"Software": None},
            }  # omit the version
            write_atomically(path, lambda file: figure.savefig(file, **style))
    finally:
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close(figure)


def create_panels(
    images: Array, titles: Sequence[str], rows: int, columns: int, caption: str
) -> tuple[Figure, Array]:
    """Create a block of panels for each image, with the image and its title in the first one.

    images (B, H, W, C)  ->  the figure and its axes (B, rows, columns)
    """
    B, H, W = images.shape[:3]
    titles = [wrap(title, 1) for title in [*titles, *[""] * B][:B]]
    lines = B * rows + sum(title.count("\n") for title in titles)
    height = B * rows * (PANEL * H / W + 2 * GAP) + LINE * (lines + 2)
    figure = Figure(figsize=(columns * (PANEL + GAP), height), layout="compressed")
    axes = figure.subplots(B * rows, columns, squeeze=False, subplot_kw=BLANK)
    blocks = axes.reshape(B, rows, columns)
    for block, image, title in zip(blocks, images, titles, strict=True):
        show_image(block[0, 0], image, title)
    figure.supxlabel(wrap(caption, columns), fontsize=8, color="0.4")
    return figure, blocks


def wrap(text: str, columns: int) -> str:
    """Wrap each line of a text to the width of this number of panels."""
    return "\n".join(textwrap.fill(line, TITLE_LENGTH * columns) for line in text.splitlines())


def show_image(axis: Axes, image: Array, title: str = "") -> None:
    """Draw an image (H, W, C) in [-1, 1]: in colour if C = 3, else the mean of its channels."""
    shown = np.clip((np.asarray(image, dtype=np.float64) + 1) / 2, 0, 1)
    if shown.shape[-1] != 3:
        shown = shown.mean(-1)
    show_map(axis, shown, image.shape[:2], title, cmap="gray", vmin=0, vmax=1)


def show_map(axis: Axes, M: Array, size: tuple[int, int], title: str = "", **style: Any) -> None:
    """Draw a map over the area of an image of size (H, W), in pixel coordinates."""
    H, W = size
    axis.imshow(M, extent=(0, W, H, 0), **style)
    axis.set_frame_on(True)
    axis.set_title(title, fontsize=9, parse_math=False)  # a $ does not start a formula


def outline_box(axes: Sequence[Axes], box: Array) -> None:
    """Draw a box (top, left, bottom, right in pixels) in white on black, visible on any colour."""
    top, left, bottom, right = (float(edge) for edge in box)
    for axis in axes:
        frame = Rectangle((left, top), right - left, bottom - top, fill=False, ec="white", lw=1.2)
        frame.set(path_effects=[withStroke(linewidth=3, foreground="black")], clip_on=False)
        axis.add_patch(frame)
