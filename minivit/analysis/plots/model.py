"""Plot a model: all figures of `python -m minivit attention`."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ...api import ViT
from ...arrays import Array, to_host
from ...data import Dataset, get_preprocessing, take
from ..distance import mean_attention_distance
from ..embeddings import patch_filters, position_similarity, position_table
from ..kinds import KINDS, LAYER_KINDS
from ..relevance import attention_gradients
from .attention import plot_attention, plot_gradients
from .distance import plot_distances
from .embeddings import plot_filters, plot_similarity

EXAMPLES = 128  # images for the mean attention distance, as in Figure 11


def plot_model(
    model: ViT,
    kind: str,
    images: Array | None = None,
    titles: Sequence[str] = (),
    layer: int = -1,
    boxes: Array | None = None,
) -> Figure:
    """Plot one of KINDS.

    IMAGE_KINDS require images (B, H, W, C). The titles, the layer and boxes (B, 4) in pixels apply
    to LAYER_KINDS. Gradients are those of the predicted class. Maps are drawn over colour images.
    Raises ValueError for an unknown kind, and if the model has nothing to plot: no position
    embeddings, no filters of pixels (a hybrid) or no classifier (gradients).
    """
    c = model.config
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose {', '.join(KINDS)}")
    if kind == "positions":
        return plot_similarity(to_host(position_similarity(position_table(model), c.grid)))
    if kind == "filters":
        if c.stem is not None:
            raise ValueError("the patch embedding of a hybrid has no filters of pixels to show")
        kernel = model.params["patch_embedding"]["kernel"]
        count = min(28, len(kernel), c.width - 1)  # 28 as in Figure 7
        return plot_filters(*patch_filters(kernel, c.patch_size, count))
    if kind == "distance":
        uniform = np.full((1, 1, 1, c.tokens, c.tokens), 1 / c.tokens)
        pair = model.attention(images), uniform
        distances, level = (mean_attention_distance(A, c.grid, c.stride) for A in pair)
        return plot_distances(distances, float(level[0, 0]))
    if kind == "maps" and c.classes is None:
        A, dA = model.attention(images), None
    else:
        A, dA = attention_gradients(model, images)
    pixels = get_preprocessing(c.preprocessing, c.image_size).denormalise(images)
    if kind == "gradients":
        return plot_gradients(pixels, A, dA, c.grid, titles, layer, boxes)
    return plot_attention(pixels, A, c.grid, titles, layer, dA, boxes, overlaid=c.channels == 3)


def plot_held_out(model: ViT, dataset: Dataset, kind: str = "maps", layer: int = -1) -> Figure:
    """Plot one of IMAGE_KINDS for held-out images. Unreadable images are omitted.

    LAYER_KINDS show the first image of the first few classes. "distance" is a mean over EXAMPLES.
    """
    labels, boxes = dataset.held_out_labels, dataset.held_out_boxes
    if kind not in LAYER_KINDS:  # images may be sorted by class, so take them at regular intervals
        chosen = np.arange(0, len(labels), max(1, len(labels) // EXAMPLES))[:EXAMPLES]
        return plot_model(model, kind, take(dataset.held_out_images, labels, chosen)[0])
    _, first = np.unique(labels, return_index=True)  # the first image of each class
    chosen = first[: 5 if kind == "maps" else 3]  # gradients take two rows per image
    images, labels = take(dataset.held_out_images, labels, chosen)
    names, predicted = dataset.classes, model(images).argmax(-1)
    titles = [f"{names[i]}, predicted {names[j]}" for i, j in zip(labels, predicted, strict=True)]
    boxes = None if boxes is None else boxes[chosen]
    return plot_model(model, kind, images, titles, layer, boxes)
