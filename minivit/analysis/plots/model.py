"""From a model to a figure: all that `python -m minivit attention` draws."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...api import ViT
from ...arrays import Array, to_host
from ...data import Dataset, get_preprocessing, take
from ..distance import mean_attention_distance
from ..embeddings import patch_filters, position_similarity, position_table
from ..relevance import attention_gradients
from .attention import plot_attention
from .figures import plot_distances, plot_filters, plot_gradients, plot_similarity
from .overlay import plot_overlays

KINDS = {
    "maps": "what each head of one layer looks at, the rollout, the gradient-weighted one",
    "distance": "how far each head looks, layer by layer (Figure 7 right)",
    "positions": "how alike two position embeddings are (Figure 7 centre)",
    "filters": "principal components of the patch embedding's filters (Figure 7 left)",
    "gradients": "what the heads of one layer look at, and which looks speak for the class",
}
OF_IMAGES = ("maps", "distance", "gradients")  # the others show the parameters alone
OF_A_LAYER = ("maps", "gradients")
EXAMPLES = 128  # images of which the distances are a mean, as in Figure 11
FILTERS = 28  # components of Figure 7


def draw(
    model: ViT,
    kind: str,
    path: str | Path,
    images: Array | None = None,
    titles: Sequence[str] = (),
    layer: int = -1,
    boxes: Array | None = None,
) -> None:
    """Write the figure of one of the KINDS.

    Those OF_IMAGES need images (B, H, W, C); titles, the layer and boxes (B, 4) in pixels are for
    those OF_A_LAYER. Gradients are of each image's likeliest class; a model without a classifier
    has none. Maps of coloured images are laid over them. Raises ValueError for another kind, and
    where there is nothing to show: positions without a table, filters of a hybrid.
    """
    c = model.config
    if kind == "positions":
        plot_similarity(to_host(position_similarity(position_table(model), c.grid)), path)
    elif kind == "filters":
        if c.stem is not None:
            raise ValueError("the patch embedding of a hybrid reads no pixels: nothing to show")
        kernel = model.params["patch_embedding"]["kernel"]
        count = min(FILTERS, len(kernel), c.width - 1)
        plot_filters(*patch_filters(kernel, c.patch_size, count), path)
    elif kind == "distance":
        uniform = np.full((1, 1, 1, c.tokens, c.tokens), 1 / c.tokens)
        distances, level = (
            mean_attention_distance(A, c.grid, c.stride) for A in (model.attention(images), uniform)
        )
        plot_distances(distances, float(level[0, 0]), path)
    elif kind in OF_A_LAYER:
        shown = get_preprocessing(c.preprocessing, c.image_size).denormalise(images)
        if c.classes is not None:
            A, dA = attention_gradients(model, images)
        elif kind == "maps":
            A, dA = model.attention(images), None
        else:
            raise ValueError("the model has no classifier: no look speaks for any class")
        if kind == "gradients":
            plot_gradients(shown, A, dA, c.grid, path, titles, layer, boxes)
        elif c.channels == 3 and boxes is None:
            plot_overlays(shown, A, c.grid, path, titles, layer, dA)
        else:
            plot_attention(shown, A, c.grid, path, titles, layer, dA, boxes)
    else:
        raise ValueError(f"unknown kind {kind!r}: choose {', '.join(KINDS)}")


def draw_held_out(
    model: ViT, dataset: Dataset, path: str | Path, kind: str = "maps", layer: int = -1
) -> None:
    """Write a figure OF_IMAGES: the first held-out image of some classes, or many for distances.

    Images that cannot be read are left out.
    """
    labels, boxes = dataset.held_out_labels, dataset.held_out_boxes
    if kind in OF_A_LAYER:
        shown = (0, 2, 3, 4, 8) if kind == "maps" else (2, 3, 8)  # gradients take two rows for each
        chosen = firsts(labels, shown)
    else:  # from all over: they may be sorted
        chosen = np.arange(0, len(labels), max(1, len(labels) // EXAMPLES))[:EXAMPLES]
    images, labels = take(dataset.held_out_images, labels, chosen)
    if kind not in OF_A_LAYER:
        return draw(model, kind, path, images)
    names = dataset.classes
    answers = model(images).argmax(-1)
    pairs = zip(labels, answers, strict=True)
    titles = [f"{names[label]}, read as {names[c]}" for label, c in pairs]
    boxes = None if boxes is None else boxes[chosen]
    return draw(model, kind, path, images, titles, layer, boxes)


def firsts(labels: Array, classes: Sequence[int]) -> Array:
    """Where the first image of each of the classes is, or of others in place of those without."""
    present = np.unique(labels).tolist()
    wanted = [c for c in classes if c in present] + [c for c in present if c not in classes]
    return np.array([np.argmax(labels == c) for c in sorted(wanted[: len(classes)])])
