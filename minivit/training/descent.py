"""Plain gradient descent, for any function that returns logits and its pullback."""

from collections.abc import Callable

import numpy as np

from ..arrays import Array, Pullback
from ..data import Dataset
from ..data.dataset import take
from ..layers import cross_entropy
from ..parallel import batch_slices, single_threaded_blas
from ..tree import Tree, flatten

Classifier = Callable[[Array, Tree], tuple[Array, Pullback]]


def train_sgd(
    model: Classifier,
    params: Tree,
    data: Dataset,
    *,
    epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> list[float]:
    """Step down the gradient of the cross-entropy; returns the held-out accuracy of each epoch.

    model(images, params) returns (logits, pullback), and pullback(dlogits) returns (dimages,
    dparams). The arrays of `params` are changed in place, each by -rate times its gradient, which
    stands under the same name in `dparams`; what has no gradient there stays. Raises
    FloatingPointError if the loss stops being a number.
    """
    generator = np.random.default_rng(seed)
    n = len(data.images)
    accuracies = []
    with single_threaded_blas():  # models for learning: too small for two
        for _ in range(epochs):
            order = generator.permutation(n)
            for part in batch_slices(n, -(-n // batch_size)):
                images, labels = take(data.images, data.labels, order[part])
                if len(images) == 0:  # none of them could be read
                    continue
                logits, model_back = model(images, params)
                loss, loss_back = cross_entropy(logits, labels)
                if not np.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss}: the learning rate {learning_rate} is too high"
                    )
                _, dparams = model_back(loss_back())
                leaves = flatten(params)
                for name, gradient in flatten(dparams).items():
                    leaves[name] -= learning_rate * gradient
            images, labels = take(data.held_out_images, data.held_out_labels, slice(None))
            logits, _ = model(images, params)
            accuracies.append(float(np.mean(logits.argmax(-1) == labels)))
    return accuracies
