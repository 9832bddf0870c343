"""Fine-tuning (section 3.1): train a pre-trained model with a new head on another data set."""

import dataclasses

from ..api import ViT
from ..tree import map_tree
from .recipe import Recipe

# SGD with momentum, gradient clipping and no weight decay as in Table 4, for small data sets.
FINE_TUNING = Recipe(
    epochs=20, batch_size=128, optimiser="sgd", learning_rate=0.03, warmup=1, weight_decay=0.0,
    label_smoothing=0.0, shift=0,
)  # fmt: skip


def replace_head(model: ViT, classes: int, dropout: float = 0.0, drop_path: float = 0.0) -> ViT:
    """Return a model with the same body and a linear head that is initialised to zero.

    The hidden layer of the pre-training head is removed. All logits are 0, so the first loss is
    ln(classes). The two models share the arrays of the body until one of them is trained: training
    copies them, so the other model does not change. Raises ValueError for values that ViTConfig
    rejects.
    """
    config = dataclasses.replace(
        model.config, classes=classes, hidden_head=None, dropout=dropout, drop_path=drop_path
    )
    body = {name: branch for name, branch in model.params.items() if name not in ("hidden", "head")}
    kernel = model.xp.zeros((config.width, classes), model.dtype)
    head = {"kernel": kernel, "bias": model.xp.zeros(classes, model.dtype)}
    return type(model)(config, {**map_tree(lambda leaf: leaf, body), "head": head})
