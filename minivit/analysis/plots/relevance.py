"""The attention of each head above its gradient."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ...arrays import Array
from ..attention import patch_maps
from .attention import head_titles
from .figure import create_panels, outline_box, show_map

CAPTION = "A: 0 is dark. dA: purple: attending there raises the logit; orange: it lowers the logit."


def plot_gradients(
    images: Array,
    attention: Array,
    gradients: Array,
    grid: tuple[int, int],
    titles: Sequence[str] = (),
    layer: int = -1,
    boxes: Array | None = None,
) -> Figure:
    """Plot the attention of each head of one layer, and below it the gradient of a logit.

    images (B, H, W, C) in [-1, 1]; attention A and gradients dA, both (L, B, h, T, T), from
    `attention_gradients`; grid (gh, gw); boxes (B, 4) in pixels are outlined
    """
    A, dA = patch_maps(attention[layer], grid), patch_maps(gradients[layer], grid)  # (B, h, gh, gw)
    size, names = images.shape[1:3], head_titles(attention, layer)
    figure, blocks = create_panels(images, titles, 2, len(names) + 1, CAPTION)
    for b, (upper, lower) in enumerate(blocks):
        for i, name in enumerate(names):
            top = abs(dA[b, i]).max() or 1
            show_map(upper[i + 1], A[b, i], size, f"A, {name}", cmap="viridis", vmin=0)
            show_map(lower[i + 1], dA[b, i], size, f"dA, {name}", cmap="PuOr", vmin=-top, vmax=top)
        if boxes is not None:
            outline_box([*upper, *lower[1:]], boxes[b])
    return figure
