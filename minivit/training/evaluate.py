"""Evaluate a model on images that it was not trained on."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..api import ViT
from ..arrays import Array
from ..data.dataset import take
from ..layers import cross_entropy
from ..parallel import batch_slices
from .step import check_has_head

BATCH_SIZE = 256  # images that are read, resized and evaluated together


class Score(NamedTuple):
    """The held-out loss (mean cross-entropy, in nats) and accuracy (0 to 1)."""

    loss: float
    accuracy: float


def evaluate(model: ViT, images: Array, labels: Array) -> Score:
    """Compute the loss and the accuracy of a model.

    Parameters
    ----------
    model : ViT
    images : (n, H, W, C) array, or images that are read on demand (see `Dataset`)
        Unreadable images are skipped.
    labels : (n,) array of integers

    Returns
    -------
    Score

    Raises
    ------
    ValueError
        If the model has no classifier, or if no image is readable.

    Examples
    --------
    >>> model = ViT.load(minivit.data.SCATTERED_MODEL)
    >>> dataset = minivit.data.load_scattered(n=1, held_out=200)
    >>> evaluate(model, dataset.held_out_images, dataset.held_out_labels).accuracy > 0.9
    True
    """
    check_has_head(model)
    logits, labels = predict_batches(model, images, labels)
    loss, _ = cross_entropy(logits, labels)
    return Score(float(loss), float(np.mean(logits.argmax(-1) == labels)))


def predict_batches(
    function: Callable[[Array], Array], images: Array, labels: Array
) -> tuple[Array, Array]:
    """Apply `model` or `model.features` to images in batches. Return outputs and labels.

    Unreadable images and their labels are skipped. Raises ValueError if no image is readable.
    """
    n = len(images)
    outputs, kept_labels = [], []
    for part in batch_slices(n, math.ceil(n / BATCH_SIZE) or 1):
        batch, batch_labels = take(images, labels, part)
        if len(batch):
            outputs.append(function(batch))
            kept_labels.append(batch_labels)
        del batch  # free it before the next one is read
    if not outputs:
        raise ValueError("none of the images could be read")
    return np.concatenate(outputs), np.concatenate(kept_labels)
