"""Attention maps over their images (Figures 6 and 14), and the gradients of attention."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...arrays import Array
from ...data.resampling import resample
from ..attention import patch_maps
from .figure import (
    ATTENTION_COLOURS,
    SIGNED_COLOURS,
    add_colour_bar,
    create_axes,
    create_panels,
    outline_box,
    show_image,
    show_map,
)

QUANTILE = 0.97  # drawn brightest; with the maximum, an outlier would darken the other patches
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue
OPACITY = (0.3, 0.8)  # of the lowest and the highest values of the map
RANGE = {0.0: "minimum", 1.0: f"{100 * QUANTILE:.0f}th percentile"}
RANGE_LABEL = "attention, relative to the range of each map"
GRADIENT_CAPTION = "A: attention. dA: more attention raises (purple) or lowers (orange) the logit."


def plot_map(image: Array, values: Array, ax: Axes | None = None, title: str = "") -> Figure:
    """Plot one map over its image, with a colour bar in the units of the map.

    image (H, W, C) in [-1, 1], map (gh, gw). The map is drawn into `ax` if it is given.

    >>> plot_map(np.zeros((8, 8, 1)), np.arange(16.0).reshape(4, 4)).axes[-1].get_ylabel()
    'attention'
    """
    figure, axis = create_axes(ax, figsize=(4.2, 3.5))
    low, high = value_range(values)
    axis.set(xticks=[], yticks=[])
    show_image(axis, overlay(image, values), title)
    scale = axis.imshow(values, cmap=ATTENTION_COLOURS, vmin=low, vmax=high, visible=False)
    axis.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
    figure.colorbar(scale, ax=axis, label="attention", extend="max", fraction=0.046)
    return figure


def plot_maps(
    images: Array,
    rows: Sequence[Mapping[str, Array]],
    titles: Sequence[str] = (),
    boxes: Array | None = None,
    note: str = "",
) -> Figure:
    """Plot maps over their images, beside the images themselves.

    images (B, H, W, C) in [-1, 1]; each row {title: map (B, gh, gw)}; boxes (B, 4) to outline: top,
    left, bottom, right in pixels. The note is drawn below the maps. (Figures 6 and 14)

    >>> model = minivit.ViT.load(minivit.data.SCATTERED_MODEL)
    >>> images = minivit.data.load_scattered(n=1, held_out=2).held_out_images
    >>> maps = minivit.analysis.attention_maps(model, images, ["rollout", "raw"])
    >>> len(plot_maps(images, [maps]).axes)  # per image: itself, rollout, 4 heads; the colour bar
    13
    """
    figure, blocks = create_panels(images, titles, [list(maps) for maps in rows], note)
    for b, block in enumerate(blocks):
        used = [block[0, 0]]
        for panels, maps in zip(block, rows, strict=True):
            for axis, (title, M) in zip(panels[1:], maps.items(), strict=False):
                show_image(axis, overlay(images[b], M[b]), title)
                used.append(axis)
        if boxes is not None:
            outline_box(used, boxes[b])
    add_colour_bar(blocks, ATTENTION_COLOURS, RANGE, RANGE_LABEL)
    return figure


def value_range(values: Array) -> tuple[float, float]:
    """Return the lowest value of a map and the value that is drawn brightest."""
    low = float(values.min())
    return low, low + float(np.quantile(values, QUANTILE) - low or values.max() - low or 1)


def overlay(image: Array, values: Array) -> Array:
    """Draw a map, interpolated between the centres of the patches, over an image in grey.

    image (H, W, C) in [-1, 1], map (gh, gw)  ->  (H, W, 3) in [-1, 1]
    """
    low, high = value_range(values.astype(np.float64))
    level = ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)[..., None]  # (gh, gw, 1)
    level = resample(level, image.shape[:2], "bilinear")  # (H, W, 1)
    colour = 2 * colormaps[ATTENTION_COLOURS](level[..., 0])[..., :3] - 1
    C = image.shape[-1]
    weights = np.array(LUMINANCE if C == 3 else [1 / C] * C)
    grey = image.astype(np.float64) @ weights  # (H, W)
    opacity = OPACITY[0] + (OPACITY[1] - OPACITY[0]) * level
    return grey[..., None] * (1 - opacity) + colour * opacity


def plot_gradients(
    images: Array,
    attention: Array,
    gradients: Array,
    grid: tuple[int, int],
    titles: Sequence[str] = (),
    layer: int = -1,
    boxes: Array | None = None,
) -> Figure:
    """Plot the attention of each head of one layer and, below it, the gradient of a logit.

    images (B, H, W, C) in [-1, 1]; attention A and gradients dA, both (L, B, h, T, T), from
    `attention_gradients`; grid (gh, gw); boxes (B, 4) to outline, as in `plot_maps`
    """
    A, dA = patch_maps(attention[layer], grid), patch_maps(gradients[layer], grid)  # (B, h, gh, gw)
    number, heads = range(len(attention))[layer] + 1, range(A.shape[1])
    names = [f"layer {number}, head {i + 1}" for i in heads]
    rows = [[f"{symbol}, {name}" for name in names] for symbol in ("A", "dA")]
    caption = GRADIENT_CAPTION + " The box outlines the object." * (boxes is not None)
    figure, blocks = create_panels(images, titles, rows, caption, bars=2)
    for b, (upper, lower) in enumerate(blocks):
        for i in heads:
            show_image(upper[i + 1], overlay(images[b], A[b, i]), rows[0][i])
            top = abs(dA[b, i]).max() or 1
            style = {"cmap": SIGNED_COLOURS, "vmin": -top, "vmax": top}
            show_map(lower[i + 1], dA[b, i], images.shape[1:3], rows[1][i], **style)
        if boxes is not None:
            outline_box([*upper, *lower[1:]], boxes[b])
    label = "dA, relative to its largest magnitude in each map"
    add_colour_bar(blocks, SIGNED_COLOURS, {0: "-maximum", 0.5: "0", 1: "maximum"}, label)
    add_colour_bar(blocks, ATTENTION_COLOURS, RANGE, "A, relative to the range of each map")
    return figure
