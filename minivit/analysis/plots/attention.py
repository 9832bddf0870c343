"""Attention maps beside their images or laid over them (Figures 6 and 14)."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ...arrays import Array
from ..attention import attention_rollout, patch_maps
from ..relevance import gradient_weighted_rollout
from .figure import create_panels, outline_box, show_image, show_map
from .overlay import CAPTION, overlay


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
    (B, 4) are outlined: top, left, bottom, right in pixels. `overlaid` lays the maps over the
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
    caption = CAPTION if overlaid else "each map from 0 (dark) to its maximum (bright)"
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


def head_titles(attention: Array, layer: int) -> list[str]:
    """Return a title for each head of a layer of attention (L, B, h, T, T), counted from 1."""
    number = range(len(attention))[layer] + 1
    return [f"layer {number}, head {i + 1}" for i in range(attention.shape[2])]
