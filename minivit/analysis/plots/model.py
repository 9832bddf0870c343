"""Plot a model: `minivit.plot_attention`, and all figures of `minivit attention`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ...api import ViT
from ...arrays import Array, to_host
from ...data import Dataset, get_preprocessing, read_image, take
from ...data.preprocessing import preprocess
from ..attention import SINK, attention_sinks, patch_maps
from ..distance import mean_attention_distance
from ..embeddings import patch_filters, position_similarity, position_table
from ..maps import (
    KINDS,
    LAYER_KINDS,
    combine_attention,
    compute_attention,
    find_class,
    name_class,
)
from ..relevance import attention_gradients
from .attention import plot_gradients, plot_maps
from .distance import plot_distances
from .embeddings import plot_filters, plot_similarity
from .figure import show_figure

EXAMPLES = 128  # images for the mean attention distance, as in Figure 11
COLUMNS = 6  # maps per row, unless the rows are layers
BOX_NOTE = "The box outlines the object.\n"
SINK_NOTE = (
    "Attention sinks: averaged over all queries and heads of a layer, {} more than {:.0f} times "
    "the uniform weight. The image need not be informative there."
)


def plot_attention(
    model: ViT,
    image: Any,
    method: str = "rollout",
    layer: int | None = -1,
    head: int | None = None,
    target: Any = None,
    query: tuple[int, int] | None = None,
    fusion: str = "mean",
    discard: float = 0.0,
) -> Figure:
    """Plot the attention of a model over an image. Notebooks display the returned figure.

    Parameters
    ----------
    model : ViT
    image : path, PIL.Image.Image, or array (H, W, C) or (B, H, W, C)
        An image file, a Pillow image or an image of uint8, which are preprocessed for the model, or
        images of floats that have been preprocessed.
    method : str
        "raw" (the attention weights of each head of a layer), "mean" or "max" (over its heads),
        "rollout" (product over the layers) or "relevance" (gradient-weighted rollout).
    layer : int, optional
        Index of the layer; "rollout" and "relevance" combine the layers up to it. None plots all
        layers, one per row.
    head : int, optional
        Index of a head. By default all heads are plotted or combined.
    target : int, str, or sequence of them, optional
        Classes by index or name. For each one, the map of "relevance" is plotted, besides that of
        the method. Without a target, the method "relevance" explains the predicted class.
    query : (int, int), optional
        Row and column of the patch whose attention is plotted. By default the class token's.
    fusion, discard : str, float
        Options of `minivit.analysis.attention_rollout`.

    Returns
    -------
    matplotlib.figure.Figure
        Save it with `figure.savefig(path)`.

    Raises
    ------
    OSError, ValueError
        If the image cannot be read, or an argument does not fit the model.

    Examples
    --------
    >>> model = ViT.load(minivit.data.SCATTERED_MODEL)
    >>> image = minivit.data.load_scattered(n=1, held_out=1).held_out_images
    >>> figure = plot_attention(model, image, method="raw", target=3)
    >>> [ax.get_title() for ax in figure.axes][1:4]
    ['layer 4, head 1', 'layer 4, head 2', 'layer 4, head 3']
    """
    if not isinstance(model, ViT):
        raise TypeError(f"model must be a ViT, not {type(model).__name__}")
    images = prepare_image(model, image)
    single = isinstance(target, str) or np.ndim(target) == 0
    targets = () if target is None else [target] if single else list(target)
    methods = [method, *["relevance"] * (bool(targets) and method != "relevance")]
    options: dict[str, Any] = {"targets": [find_class(model, name) for name in targets]}
    options |= {"head": head, "query": query, "fusion": fusion, "discard": discard}
    titles = ()
    if model.config.classes is not None:
        predicted = model(images).argmax(-1)
        titles = [f"predicted: {name_class(model, k)}" for k in predicted]
    figure = plot_model(model, "maps", images, titles, layer, methods=methods, **options)
    show_figure(figure)
    return figure


def prepare_image(model: ViT, image: Any) -> Array:
    """Return the input of a model (B, H, W, C) for an argument of `plot_attention`."""
    c = model.config
    if isinstance(image, (str, Path)):
        return read_image(image, c.image_size, c.channels, c.preprocessing)[None]
    if getattr(image, "dtype", None) == np.uint8:
        image = Image.fromarray(np.squeeze(image))
    if isinstance(image, Image.Image):
        picture = image.convert("L" if c.channels == 1 else "RGB")
        rules = get_preprocessing(c.preprocessing, c.image_size)
        return preprocess(picture, c.image_size, rules)[None]
    images = np.asarray(image)
    return images[None] if images.ndim == 3 else images


def plot_model(
    model: ViT,
    kind: str,
    images: Any = None,
    titles: Sequence[str] = (),
    layer: int | None = -1,
    boxes: Array | None = None,
    **options: Any,
) -> Figure:
    """Plot one of KINDS.

    IMAGE_KINDS require images (B, H, W, C). The titles, the layer and boxes (B, 4) in pixels apply
    to LAYER_KINDS; a layer of None plots all layers, for "maps" only. The options are those of
    `attention_maps`; "gradients" takes one of the targets. By default, the maps are rollout,
    relevance and each head.
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
    pixels = get_preprocessing(c.preprocessing, c.image_size).denormalise(images)
    if kind == "gradients":
        targets = [*options.get("targets", ())] * len(images)
        A, dA = attention_gradients(model, images, targets or None)
        return plot_gradients(pixels, A, dA, c.grid, titles, -1 if layer is None else layer, boxes)
    return plot_layers(model, images, pixels, titles, layer, boxes, **options)


def plot_layers(
    model: ViT, images: Array, pixels: Array, titles: Sequence[str], layer: int | None,
    boxes: Array | None, methods: Sequence[str] = (), targets: Sequence[int] = (),
    query: tuple[int, int] | None = None, head: int | None = None, **options: Any,
) -> Figure:  # fmt: skip
    """Plot the attention maps of one layer, or of each layer if `layer` is None."""
    grid = model.config.grid
    if not methods:
        has_class = model.config.classes is not None
        default = ["rollout", *["relevance"] * has_class, "raw"]
        methods = ["relevance"] if targets else default if head is None else ["raw"]
    A, gradients = compute_attention(model, images, methods, targets)
    rows = []
    for index in range(len(A)) if layer is None else [layer]:
        each = layer is None
        combined = combine_attention(A, gradients, methods, index, head, each, **options)
        rows.append({title: patch_maps(M, grid, query) for title, M in combined.items()})
    if layer is not None and len(rows[0]) > COLUMNS:
        items = list(rows[0].items())
        parts = -(-len(items) // COLUMNS)
        size = -(-len(items) // parts)
        rows = [dict(items[i : i + size]) for i in range(0, len(items), size)]
    note = BOX_NOTE if boxes is not None else ""
    if query is not None:
        note = "The outlined patch is the query.\n"
        corners = np.array([query, np.add(query, 1)]) * model.config.stride
        boxes = np.tile(corners.ravel(), (len(images), 1))
    sinks = attention_sinks(A, grid).sum((1, 2)).max()
    if sinks:
        subject = "1 patch receives" if sinks == 1 else f"up to {sinks} patches receive"
        note += SINK_NOTE.format(subject, SINK)
    return plot_maps(pixels, rows, titles, boxes, note)


def plot_held_out(
    model: ViT, dataset: Dataset, kind: str = "maps", layer: int | None = -1, **options: Any
) -> Figure:
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
    return plot_model(model, kind, images, titles, layer, boxes, **options)
