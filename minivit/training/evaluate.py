"""How good is a model on images it was not trained on?"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..arrays import Array
from ..layers import cross_entropy
from ..shards import cut
from .step import must_classify

if TYPE_CHECKING:
    from ..model import ViT

BATCH = 256  # images at a time: where they are fitted to the model, no more are in memory


class Score(NamedTuple):
    """How good a model is: `loss`, `accuracy`."""

    loss: float  # mean cross-entropy, in nats
    accuracy: float  # 0 to 1


def evaluate(model: "ViT", images: Array, labels: Array) -> Score:
    """Loss and accuracy on images (n, H, W, C) with labels (n,).

    Raises ValueError for a model without a classifier.
    """
    must_classify(model)
    logits = in_batches(model, images)
    loss, _ = cross_entropy(logits, labels)
    return Score(float(loss), float(np.mean(logits.argmax(-1) == labels)))


def in_batches(function: Callable[[Array], Array], images: Array) -> Array:
    """function(images) of many images, a batch at a time: `model`, or `model.features`."""
    n = len(images)
    parts = cut(n, max(1, -(-n // BATCH)))
    return np.concatenate([function(images[part]) for part in parts])
