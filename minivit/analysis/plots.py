"""The figures: attention maps beside their images, and the curves of a training."""

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from ..arrays import Array
from .attention import patch_maps, rollout
from .gradients import gradient_weighted

matplotlib.use("Agg")
from matplotlib import patheffects
from matplotlib import pyplot as plt

METADATA = {"Software": None}  # no version in the file: the same figure is the same bytes


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
    size = (1.5 * columns, 1.55 * rows + 0.35)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for b, row in enumerate(axes):
        show_image(row[0], images[b])
        if b < len(titles):
            row[0].set_ylabel(titles[b], fontsize=9, parse_math=False)
        for axis, one in zip(row[1:], maps.values(), strict=True):
            show_map(axis, one[b], images.shape[1:3], cmap="viridis", vmin=0)
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
    maps = {"rollout": patch_maps(rollout(attention), grid)}
    if gradients is not None:
        maps["gradient-weighted"] = patch_maps(gradient_weighted(attention, gradients), grid)
    heads = patch_maps(attention[layer], grid)                # (B, k, gh, gw)
    number = range(len(attention))[layer] + 1
    return maps | {f"layer {number}, head {h + 1}": heads[:, h] for h in range(heads.shape[1])}


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


def plot_curves(log: Sequence[dict[str, float]], path: str | Path, baseline: float) -> None:
    """Losses and held-out accuracy by epoch; `baseline` is a linear model's accuracy (0 to 1)."""
    epochs = [row["epoch"] for row in log]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(epochs, [row["loss"] for row in log], label="training, as minimised")
    left.plot(epochs, [row["held_out_loss"] for row in log], "--", label="held out")
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
    left.legend()
    errors = [100 * (1 - row["held_out_accuracy"]) for row in log]
    right.plot(epochs, errors, label="ViT, held out")
    right.axhline(100 * (1 - baseline), color="0.4", ls=":", label="logistic regression on pixels")
    right.set(xlabel="epoch", ylabel="errors (%)", yscale="log")
    right.yaxis.set_major_formatter("{x:g}")
    right.legend()
    save_figure(figure, path)


def save_figure(figure: plt.Figure, path: str | Path) -> None:
    """Write the figure as a PNG, the same bytes each time, and close it.

    Raises FileNotFoundError if there is no such folder, as when a chapter is run from another.
    """
    folder = Path(path).parent
    try:
        if not folder.is_dir():
            reason = f"there is no folder {folder} in {Path.cwd()}"
            raise FileNotFoundError(errno.ENOENT, reason, str(path))
        figure.savefig(path, dpi=120, format="png", metadata=METADATA)
    finally:
        plt.close(figure)
