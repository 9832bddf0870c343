"""The figures: attention maps beside their images, and the curves of a training."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from ..arrays import Array
from .attention import patch_maps, rollout

matplotlib.use("Agg")
from matplotlib import pyplot as plt

METADATA = {"Software": None}  # no version in the file: the same figure is the same bytes


def plot_attention(
    images: Array,
    attention: Array,
    grid: tuple[int, int],
    path: str | Path,
    titles: Sequence[str] = (),
    layer: int = -1,
) -> None:
    """One row for each image: the image, the rollout, and each head of one layer.

    images (B, H, W, C) in [-1, 1], attention (L, B, k, T, T), grid (gh, gw). Each map is scaled
    to its own largest value.
    """
    flow = patch_maps(rollout(attention), grid)               # (B, gh, gw)
    heads = patch_maps(attention[layer], grid)                # (B, k, gh, gw)
    B, k = heads.shape[:2]
    number = range(len(attention))[layer] + 1
    names = ["image", "rollout", *(f"layer {number}, head {h + 1}" for h in range(k))]
    figure, axes = plt.subplots(
        B, k + 2, figsize=(1.5 * (k + 2), 1.55 * B + 0.35), squeeze=False, layout="constrained"
    )
    for b, row in enumerate(axes):
        show_image(row[0], images[b])
        if b < len(titles):
            row[0].set_ylabel(titles[b], fontsize=9)
        for axis, one in zip(row[1:], [flow[b], *heads[b]], strict=True):
            axis.imshow(one, cmap="viridis", vmin=0)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    save_figure(figure, path)


def show_image(axis: plt.Axes, image: Array) -> None:
    """Draw one image (H, W, C), C = 1 in grey or 3 in colour, from [-1, 1]."""
    shown = np.clip((np.asarray(image, dtype=np.float64) + 1) / 2, 0, 1)
    if shown.shape[-1] == 3:
        axis.imshow(shown)
    else:
        axis.imshow(shown.mean(-1), cmap="gray", vmin=0, vmax=1)


def plot_curves(log: Sequence[dict[str, float]], path: str | Path, baseline: float) -> None:
    """Losses and held-out accuracy by epoch; `baseline` is a linear model's accuracy (0 to 1)."""
    epochs = [row["epoch"] for row in log]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(epochs, [row["loss"] for row in log], label="training (smoothed labels)")
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
    """Write the figure as a PNG, the same bytes each time, and close it."""
    try:
        figure.savefig(path, dpi=120, format="png", metadata=METADATA)
    finally:
        plt.close(figure)
