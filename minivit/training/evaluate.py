"""How good is a model on images it was not trained on?"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..api import ViT
from ..arrays import Array
from ..data.dataset import take
from ..layers import cross_entropy
from ..parallel import batch_slices
from .step import check_has_head

BATCH = 256  # images at a time: where they are fitted to the model, no more are in memory


class Score(NamedTuple):
    """How good a model is: `loss`, `accuracy`."""

    loss: float  # mean cross-entropy, in nats
    accuracy: float  # 0 to 1


def evaluate(model: ViT, images: Array, labels: Array) -> Score:
    """Loss and accuracy on images (n, H, W, C) with labels (n,), as many of them as can be read.

    Raises ValueError for a model without a classifier, and if no image can be read.
    """
    check_has_head(model)
    logits, labels = predict_batches(model, images, labels)
    loss, _ = cross_entropy(logits, labels)
    return Score(float(loss), float(np.mean(logits.argmax(-1) == labels)))


def predict_batches(
    function: Callable[[Array], Array], images: Array, labels: Array
) -> tuple[Array, Array]:
    """function(images) of many images, a batch at a time, and their labels.

    The function is `model`, or `model.features`. Images that cannot be read are left out, and so
    are their labels. Raises ValueError if none can be.
    """
    n = len(images)
    outputs, known = [], []
    for part in batch_slices(n, max(1, -(-n // BATCH))):
        batch, its_labels = take(images, labels, part)
        if len(batch):
            outputs.append(function(batch))
            known.append(its_labels)
        del batch  # before the next one is read
    if not outputs:
        raise ValueError("there is no image that could be read")
    return np.concatenate(outputs), np.concatenate(known)


def map_batches(function: Callable[[Array], Array], images: Array) -> Array:
    """function(images) of many images, a batch at a time, where all of them can be read."""
    outputs, _ = predict_batches(function, images, np.arange(len(images)))
    return outputs
