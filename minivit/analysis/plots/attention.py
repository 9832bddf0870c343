"""The figures: attention maps beside their images, and the curves of a training."""

import errno
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from ...arrays import Array
from ..attention import attention_rollout, patch_maps
from ..relevance import gradient_weighted_rollout

matplotlib.use("Agg")
from matplotlib import font_manager, patheffects
from matplotlib import pyplot as plt
from matplotlib.axis import Axis
from matplotlib.text import Text

METADATA = {"Software": None}  # no version in the file: the same figure is the same bytes
DPI = 120
LOWEST = 0.8  # inches for a row, however flat its image: the name beside it takes that
BETWEEN = 0.15  # inches between two rows
LINE = 0.15  # inches for each line of such a name, and LETTER for each of its letters
LETTER = 0.065
FEW_EPOCHS = 10  # are drawn with a dot for each: a single one has no line


def plot_attention(
    images: Array,
    attention: Array,
    grid: tuple[int, int],
    path: str | Path,
    titles: Sequence[str] = (),
    layer: int = -1,
    gradients: Array | None = None,
    boxes: Array | None = None,
) -> None:
    """One row for each image: the image, the rollout, and each head of one layer.

    images (B, H, W, C) in [-1, 1], attention (L, B, k, T, T), grid (gh, gw). Each map is scaled
    to its own largest value. With gradients (L, B, k, T, T) there is one more column, the
    gradient-weighted attention; boxes (B, 4) in pixels are outlined on the image and the maps.
    """
    maps = attention_maps(attention, grid, layer, gradients)
    rows, columns = len(images), len(maps) + 1
    H, W = images.shape[1:3]
    height = max(1.4 * H / W, LOWEST)
    titles, more = beside(titles, height)
    size = (1.5 * columns + more, (height + BETWEEN) * rows + 0.35)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for b, row in enumerate(axes):
        show_image(row[0], images[b])
        if b < len(titles):
            row[0].set_ylabel(titles[b], fontsize=9, parse_math=False)
        for axis, one in zip(row[1:], maps.values(), strict=True):
            show_map(axis, one[b], (H, W), cmap="viridis", vmin=0)
        if boxes is not None:
            outline(row, boxes[b])
    for axis, name in zip(axes[0], ["image", *maps], strict=True):
        axis.set_title(name, fontsize=9)
    save_figure(figure, path)


def attention_maps(
    attention: Array, grid: tuple[int, int], layer: int = -1, gradients: Array | None = None
) -> dict[str, Array]:
    """What there is to show of attention (L, B, k, T, T), by name, as maps (B, gh, gw).

    The rollout; with gradients the gradient-weighted attention; each head of one layer.
    """
    maps = {"rollout": patch_maps(attention_rollout(attention), grid)}
    if gradients is not None:
        maps["gradient-weighted"] = patch_maps(
            gradient_weighted_rollout(attention, gradients), grid
        )
    heads = patch_maps(attention[layer], grid)  # (B, k, gh, gw)
    number = range(len(attention))[layer] + 1
    return maps | {f"layer {number}, head {h + 1}": heads[:, h] for h in range(heads.shape[1])}


def wrapped(title: str, letters: int) -> str:
    """The title in lines of so many letters at most."""
    return "\n".join(textwrap.fill(line, letters) for line in title.splitlines())


def beside(titles: Sequence[str], height: float) -> tuple[list[str], float]:
    """Names to stand upright beside rows of a height, and the width of their further lines."""
    titles = [wrapped(title, round(height / LETTER)) for title in titles]
    return titles, LINE * max([title.count("\n") for title in titles], default=0)


def show_image(axis: plt.Axes, image: Array) -> None:
    """Draw one image (H, W, C), C = 1 in grey or 3 in colour, from [-1, 1]."""
    shown = np.clip((np.asarray(image, dtype=np.float64) + 1) / 2, 0, 1)
    if shown.shape[-1] == 3:
        show_map(axis, shown, shown.shape[:2])
    else:
        show_map(axis, shown.mean(-1), shown.shape[:2], cmap="gray", vmin=0, vmax=1)


def show_map(axis: plt.Axes, shown: Array, size: tuple[int, int], **colours: Any) -> None:
    """Draw one map over the area of an image of size (H, W), in its pixels, without ticks."""
    H, W = size
    axis.imshow(shown, extent=(0, W, H, 0), **colours)
    axis.set(xticks=[], yticks=[])


def outline(axes: Sequence[plt.Axes], box: Array) -> None:
    """Draw a box (top, left, bottom, right in pixels), white between black: seen on any colour."""
    top, left, bottom, right = (float(edge) for edge in box)
    for axis in axes:
        frame = plt.Rectangle((left, top), right - left, bottom - top, fill=False, ec="white")
        frame.set(linewidth=1.2, clip_on=False, in_layout=False)
        frame.set_path_effects([patheffects.withStroke(linewidth=3, foreground="black")])
        axis.add_patch(frame)


def plot_curves(
    log: Sequence[dict[str, float]], path: str | Path, baseline: float | None = None
) -> None:
    """Losses and held-out errors by epoch, beside a linear model's accuracy (0 to 1), if known."""
    epochs = [row["epoch"] for row in log]
    dots = {"marker": "o", "ms": 4} if len(log) <= FEW_EPOCHS else {}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(epochs, [row["loss"] for row in log], label="training, as minimised", **dots)
    left.plot(epochs, [row["held_out_loss"] for row in log], "--", label="held out", **dots)
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    left.set_ylim(0, 1.05 * left.get_ylim()[1])
    left.legend()
    errors = [100 * (1 - row["held_out_accuracy"]) for row in log]
    right.plot(epochs, errors, label="ViT, held out", **dots)
    if baseline is not None:
        level = 100 * (1 - baseline)
        right.axhline(level, color="0.4", ls=":", label="logistic regression on pixels")
    right.set(xlabel="epoch", ylabel="errors (%)", yscale="log")
    low, high = right.get_ylim()
    wide = high > 4 * low  # else 1, 2, 3, 5 are too few
    ticks = matplotlib.ticker
    right.yaxis.set_major_locator(
        ticks.LogLocator(subs=(1, 2, 3, 5)) if wide else ticks.MaxNLocator(6, steps=(1, 2, 5, 10))
    )
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter(ticks.NullFormatter())
    right.legend()
    for axis in (left, right):
        count_whole(axis.xaxis)
    save_figure(figure, path)


def count_whole(axis: Axis) -> None:
    """Ticks at whole numbers only, be it a single one: there is no layer 0.6."""
    axis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))


def save_figure(figure: plt.Figure, path: str | Path) -> None:
    """Write the figure as a PNG, the same bytes each time, and close it.

    Letters that the figure's font lacks are taken from other fonts; those that none has are drawn
    as boxes, without a warning. Raises FileNotFoundError if there is no such folder, as when a
    chapter is run from another.
    """
    folder = Path(path).parent
    try:
        if not folder.is_dir():
            reason = f"there is no folder {folder} in {Path.cwd()}"
            raise FileNotFoundError(errno.ENOENT, reason, str(path))
        find_letters(figure)
        with warnings.catch_warnings():
            # The second is said, too, of letters of some scripts by Matplotlib before 3.11.
            lacking = r"Glyph .* missing from|Matplotlib currently does not support"
            warnings.filterwarnings("ignore", lacking)
            figure.savefig(path, dpi=DPI, format="png", metadata=METADATA)
    finally:
        plt.close(figure)


def find_letters(figure: plt.Figure) -> None:
    """Give the figure's texts other fonts of this machine, for the letters that theirs lack."""
    for text in figure.findobj(Text):
        letters = {letter for letter in text.get_text() if letter.isprintable()}
        font = font_manager.findfont(text.get_fontproperties())
        missing = letters - drawn_by(font, letters)
        if missing:
            text.set_fontfamily([*text.get_fontfamily(), *fonts_for(missing)])


def fonts_for(letters: set[str]) -> list[str]:
    """Names of fonts that together have the letters, as far as any has them."""
    names, missing = [], letters
    fonts = font_manager.fontManager.ttflist
    for font in sorted(fonts, key=lambda font: (font.weight != 400, font.name, font.fname)):
        # The fonts named "Last Resort" have every letter there is, and all as boxes. The list
        # is kept from one run to the next: a file may have gone.
        if missing and "LastResort" not in font.name.replace(" ", "") and Path(font.fname).exists():
            found = drawn_by(font.fname, missing)
            missing = missing - found
            names += [font.name] if found else []
    return names


def drawn_by(file: str, letters: set[str]) -> set[str]:
    """Those of the letters that a font has."""
    glyphs = font_manager.get_font(file)
    return {letter for letter in letters if glyphs.get_char_index(ord(letter))}
