"""Fine-tuning (Section 3.1): the body of a trained model goes on under a head for other classes."""

import dataclasses

from ..api import ViT
from ..arrays import array_module
from ..tree import map_tree
from .loop import Recipe

# SGD with momentum, clipped and not decayed, as in Table 4; for data sets as small as those here.
FINE_TUNING = Recipe(
    epochs=20,
    batch_size=128,
    optimiser="sgd",
    learning_rate=0.03,
    warmup=1,
    weight_decay=0.0,
    label_smoothing=0.0,
    shift=0,
)


def replace_head(model: ViT, classes: int, dropout: float = 0.0, drop_path: float = 0.0) -> ViT:
    """A new model with the same body and, instead of the old head, a linear one of zeros.

    The hidden layer of pre-training goes. All logits are 0, so the first loss is ln(classes).
    The arrays of the body are the old model's own until a training moves them into its vector:
    training changes the new model alone. Raises ValueError for what ViTConfig refuses.
    """
    config = dataclasses.replace(
        model.config, classes=classes, hidden_head=None, dropout=dropout, drop_path=drop_path
    )
    body = {name: branch for name, branch in model.params.items() if name not in ("hidden", "head")}
    xp, dtype = array_module(model.params["norm"]["scale"]), model.dtype
    head = {
        "kernel": xp.zeros((config.width, classes), dtype),
        "bias": xp.zeros(classes, dtype),
    }
    return type(model)(config, {**map_tree(lambda leaf: leaf, body), "head": head})
