"""Plain minibatch gradient descent for any function that returns logits and a pullback."""

import math
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
    dataset: Dataset,
    *,
    epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> list[float]:
    """Minimise the cross-entropy by SGD and return the held-out accuracy after each epoch.

    model(images, params) returns (logits, pullback), and pullback(dlogits) returns (dimages,
    dparams). The arrays of `params` are updated in place; those without a gradient do not change.
    Raises FloatingPointError if the loss becomes NaN or infinite.
    """
    generator = np.random.default_rng(seed)
    n, leaves, accuracies = len(dataset.images), flatten(params), []
    with single_threaded_blas():  # these models are too small for two threads
        for _ in range(epochs):
            order = generator.permutation(n)
            for part in batch_slices(n, math.ceil(n / batch_size)):
                images, labels = take(dataset.images, dataset.labels, order[part])
                if len(images) == 0:  # all are unreadable
                    continue
                logits, model_back = model(images, params)
                loss, loss_back = cross_entropy(logits, labels)
                if not np.isfinite(loss):
                    reason = f"the learning rate {learning_rate} is too high"
                    raise FloatingPointError(f"the loss is {loss}: {reason}")
                _, dparams = model_back(loss_back())
                for name, gradient in flatten(dparams).items():
                    leaves[name] -= learning_rate * gradient
            images, labels = take(dataset.held_out_images, dataset.held_out_labels, slice(None))
            logits, _ = model(images, params)
            accuracies.append(float(np.mean(logits.argmax(-1) == labels)))
    return accuracies
