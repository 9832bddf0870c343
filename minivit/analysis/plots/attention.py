"""Attention maps next to or over their images (Figures 6 and 14), and their gradients."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from ...arrays import Array
from ...data.resampling import resample
from ..attention import attention_rollout, patch_maps
from ..relevance import gradient_weighted_rollout
from .figure import create_panels, outline_box, show_image, show_map

QUANTILE = 0.97  # drawn brightest; with the maximum, an outlier would darken the other patches
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue
OPACITY = (0.3, 0.8)  # of the lowest and the highest values of the map
OVERLAY_CAPTION = "each map from its minimum (dark) to its 97th percentile (bright)"
GRADIENT_CAPTION = "A: 0 is dark. dA: more attention raises (purple) or lowers (orange) the logit."


def plot_attention(
    images: Array,
    attention: Array,
    grid: tuple[int, int],
    titles: Sequence[str] = (),
    layer: int = -1,
    gradients: Array | None = None,
    boxes: Array | None = None,
    overlaid: bool = False,
) -> Figure:
    """Plot each image, its attention rollout and the attention map of each head of one layer.

    images (B, H, W, C) in [-1, 1], attention (L, B, h, T, T), grid (gh, gw)
    Gradients (L, B, h, T, T) from `attention_gradients` add the gradient-weighted rollout. Boxes
    (B, 4) are outlined: top, left, bottom, right in pixels. `overlaid` draws the maps over the
    images, which must have C = 3. Raises ValueError if T does not fit the grid. (Figures 6 and 14)

    >>> model = minivit.ViT.load(minivit.data.SCATTERED_MODEL)
    >>> images = minivit.data.load_scattered(n=1, held_out=2).held_out_images
    >>> figure = plot_attention(images, model.attention(images), model.config.grid)
    >>> len(figure.axes)  # per image: the image, the rollout and four heads
    12
    """
    maps = {"rollout": patch_maps(attention_rollout(attention), grid)}  # (B, gh, gw) each
    if gradients is not None:
        weighted = gradient_weighted_rollout(attention, gradients)
        maps["gradient-weighted"] = patch_maps(weighted, grid)
    heads = patch_maps(attention[layer], grid).swapaxes(0, 1)  # (h, B, gh, gw)
    maps |= dict(zip(head_titles(attention, layer), heads, strict=True))
    count = len(maps) + 1
    columns = count if count <= 7 else 5
    caption = OVERLAY_CAPTION if overlaid else "each map from 0 (dark) to its maximum (bright)"
    figure, blocks = create_panels(images, titles, -(-count // columns), columns, caption)
    for b, block in enumerate(blocks):
        panels = block.ravel()[:count]
        for axis, (title, M) in zip(panels[1:], maps.items(), strict=True):
            if overlaid:
                show_image(axis, overlay(images[b], M[b]), title)
            else:
                show_map(axis, M[b], images.shape[1:3], title, cmap="viridis", vmin=0)
        if boxes is not None:
            outline_box(panels, boxes[b])
    return figure


def overlay(image: Array, values: Array) -> Array:
    """Draw a map, interpolated between the centres of the patches, over a photograph in grey.

    image (H, W, 3) in [-1, 1], map (gh, gw)  ->  (H, W, 3) in [-1, 1]
    """
    shifted = values.astype(np.float64) - values.min()
    top = np.quantile(shifted, QUANTILE) or shifted.max() or 1
    level = (shifted / top).clip(0, 1)[..., None]  # (gh, gw, 1)
    level = resample(level, image.shape[:2], "bilinear")  # (H, W, 1)
    colour = 2 * colormaps["inferno"](level[..., 0])[..., :3] - 1
    grey = image.astype(np.float64) @ np.array(LUMINANCE)  # (H, W)
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
    `attention_gradients`; grid (gh, gw); boxes (B, 4) to outline, as in `plot_attention`
    """
    A, dA = patch_maps(attention[layer], grid), patch_maps(gradients[layer], grid)  # (B, h, gh, gw)
    size, names = images.shape[1:3], head_titles(attention, layer)
    figure, blocks = create_panels(images, titles, 2, len(names) + 1, GRADIENT_CAPTION)
    for b, (upper, lower) in enumerate(blocks):
        for i, name in enumerate(names):
            top = abs(dA[b, i]).max() or 1
            show_map(upper[i + 1], A[b, i], size, f"A, {name}", cmap="viridis", vmin=0)
            show_map(lower[i + 1], dA[b, i], size, f"dA, {name}", cmap="PuOr", vmin=-top, vmax=top)
        if boxes is not None:
            outline_box([*upper, *lower[1:]], boxes[b])
    return figure


def head_titles(attention: Array, layer: int) -> list[str]:
    """Return a title for each head of a layer of attention (L, B, h, T, T), counted from 1."""
    number = range(len(attention))[layer] + 1
    return [f"layer {number}, head {i + 1}" for i in range(attention.shape[2])]
