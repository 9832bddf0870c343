"""Create, display and save figures, and draw panels with images, maps and boxes."""

import contextlib
import io
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.registry import BackendFilter, backend_registry
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from ...arrays import Array
from ...files import write_atomically

ATTENTION_COLOURS, SIGNED_COLOURS = "inferno", "PuOr"  # colour maps, of attention and signed values
DPI = 120
PANEL, GAP, LINE = 1.6, 1 / 12, 0.15  # inches: a panel, the gap between two, a line of a title
BAR = 0.6  # inches: a colour bar
BLANK = {"xticks": [], "yticks": [], "frame_on": False}  # an empty panel
TITLE_LENGTH = 23  # characters of 9 points per line above a panel
# Options of `savefig` by suffix. Without the version and the date, the bytes are reproducible.
FORMATS = {
    ".png": {"format": "png", "metadata": {"Software": None}},
    ".svg": {"format": "svg", "metadata": {"Creator": None, "Date": None}},
    ".pdf": {"format": "pdf", "metadata": dict.fromkeys(("Creator", "Producer", "CreationDate"))},
    ".jpg": {"format": "jpg"},
    ".jpeg": {"format": "jpg"},
}


class NotebookFigure(Figure):
    """A Figure that Jupyter displays even though pyplot does not manage it."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=DPI)
        return content.getvalue()


def create_figure(**settings: Any) -> Figure:
    """Create a figure. pyplot manages it, if it has been imported or the session is interactive.

    Then `pyplot.show` and `pyplot.savefig` work as usual. Jupyter's inline backend would display a
    managed figure in addition to the value of the cell. The backend is not changed.
    """
    if hasattr(sys, "ps1"):  # an interactive session
        import_module("matplotlib.pyplot")
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or "inline" in matplotlib.get_backend():
        return NotebookFigure(**settings)
    return pyplot.figure(FigureClass=NotebookFigure, **settings)


def show_figure(figure: Figure) -> None:
    """Show a figure in a window, if pyplot manages it and its backend has windows."""
    windows = backend_registry.list_builtin(BackendFilter.INTERACTIVE)
    if figure.canvas.manager is not None and matplotlib.get_backend().lower() in windows:
        figure.show()


@contextlib.contextmanager
def ignore_missing_glyphs() -> Iterator[None]:
    """Draw characters that the font lacks as boxes, without a warning."""
    with warnings.catch_warnings():
        no_glyph = r"Glyph .* missing from|Matplotlib currently does not support"
        warnings.filterwarnings("ignore", no_glyph)
        yield


def create_axes(ax: Axes | None, **settings: Any) -> tuple[Figure, Axes]:
    """Return the axes to draw into, by default those of a new figure, and their figure."""
    if ax is not None:
        figure = ax.get_figure(root=True)
        assert figure is not None  # axes that belong to a figure
        return figure, ax
    figure = create_figure(layout="constrained", **settings)
    return figure, figure.subplots()


def figure_format(path: str | Path) -> dict[str, Any]:
    """Return the options of `savefig` for the suffix of a path. ValueError for an unknown one."""
    if options := FORMATS.get(Path(path).suffix.lower()):
        return options
    raise ValueError(f"cannot save a figure as '{path}': the suffix must be {', '.join(FORMATS)}")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, SVG, PDF or JPEG, according to the suffix of the path.

    The file is written atomically, with reproducible bytes. Characters that the font lacks are
    drawn as boxes. A figure that pyplot manages is closed. Raises ValueError for another suffix.
    """
    options = {"dpi": DPI, **figure_format(path)}
    try:
        with ignore_missing_glyphs(), matplotlib.rc_context({"svg.hashsalt": "minivit"}):
            write_atomically(path, lambda file: figure.savefig(file, **options))
    finally:
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close(figure)


def create_panels(
    images: Array, titles: Sequence[str], rows: Sequence[Sequence[str]], caption: str, bars: int = 1
) -> tuple[Figure, Array]:
    """Create a block of panels for each image, with the image and its title in the first one.

    images (B, H, W, C), rows of titles of the other panels  ->  the figure and its axes (B, rows,
    columns), with space for the caption and a number of colour bars
    """
    B, H, W = images.shape[:3]
    titles = [wrap(title, 1) for title in [*titles, *[""] * B][:B]]
    columns = 1 + max(map(len, rows))
    caption = wrap(caption, columns)
    lines = 2 + caption.count("\n") + sum(title.count("\n") for title in titles)
    lines += B * sum(1 + max(wrap(title, 1).count("\n") for title in row) for row in rows)
    height = B * len(rows) * (PANEL * H / W + 2 * GAP) + LINE * lines + BAR * bars
    figure = create_figure(figsize=(columns * (PANEL + GAP), height), layout="compressed")
    axes = figure.subplots(B * len(rows), columns, squeeze=False, subplot_kw=BLANK)
    blocks = axes.reshape(B, len(rows), columns)
    for block, image, title in zip(blocks, images, titles, strict=True):
        show_image(block[0, 0], image, title)
    figure.supxlabel(caption, fontsize=8, color="0.4")
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
    axis.set_title(wrap(title, 1), fontsize=9, parse_math=False)  # a $ does not start a formula


def outline_box(axes: Sequence[Axes], box: Array) -> None:
    """Draw a box (top, left, bottom, right in pixels) in white on black, visible on any colour."""
    top, left, bottom, right = (float(edge) for edge in box)
    for axis in axes:
        frame = Rectangle((left, top), right - left, bottom - top, fill=False, ec="white", lw=1.2)
        frame.set(path_effects=[withStroke(linewidth=3, foreground="black")], clip_on=False)
        axis.add_patch(frame)


def add_colour_bar(panels: Array, colours: str, ticks: Mapping[float, str], label: str) -> None:
    """Draw a horizontal colour bar below all panels.  ticks: {position from 0 to 1: text}"""
    figure = panels.flat[0].figure
    scale = ScalarMappable(Normalize(0, 1), colours)
    width, height = figure.get_size_inches()
    style = {"location": "bottom", "pad": 0.1 / height, "shrink": min(0.7, 4 / width)}
    bar = figure.colorbar(scale, ax=list(panels.flat), aspect=30, **style)
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.ax.tick_params(labelsize=8)
    bar.set_label(label, fontsize=8)
    if engine := figure.get_layout_engine():
        with ignore_missing_glyphs():
            for _ in range(2):  # after one pass, the label may still overlap the caption
                engine.execute(figure)
