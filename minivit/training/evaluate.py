"""How good is a model on images it was not trained on?"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..arrays import Array
from ..layers import cross_entropy

if TYPE_CHECKING:
    from ..model import ViT


class Score(NamedTuple):
    """How good a model is: `loss`, `accuracy`."""

    loss: float  # mean cross-entropy, in nats
    accuracy: float  # 0 to 1


def evaluate(model: "ViT", images: Array, labels: Array) -> Score:
    """Loss and accuracy on images (n, H, W, C) with labels (n,)."""
    logits = model(images)
    loss, _ = cross_entropy(logits, labels)
    return Score(float(loss), float(np.mean(logits.argmax(-1) == labels)))
