"""What a linear model reaches on the raw pixels: the number to hold every accuracy against."""

import math

import numpy as np

from ..arrays import Array
from ..data import Dataset
from ..data.dataset import take
from ..layers import cross_entropy, linear
from ..optim import AdamW
from ..parallel import single_threaded_blas

NUMBERS = 1 << 26  # pixels times channels of the images of each part that are in memory: 268 MB
BATCH = 5_000  # images a step: a large data set would take minutes at once, and learn no more
FEWEST = 1_000  # images that still tell something of a data set which is larger


def fit_logistic_regression(data: Dataset, steps: int = 300, rate: float = 0.03) -> float | None:
    """The held-out accuracy (0 to 1) of logistic regression, trained by AdamW.

    A step is on all images; where there are more than 5,000, on so many at a time, and the rate
    falls to zero. Of a large data set it sees a part, drawn at random: as many images as have
    2^26 numbers. If that is less than 1,000 of them, they are too large for a weight for each
    number, and None is returned.
    """
    if at_most(data.images) < min(FEWEST, len(data.images)):
        return None
    x, labels = rows(data.images, data.labels)
    test, test_labels = rows(data.held_out_images, data.held_out_labels)
    K, parts = len(data.classes), math.ceil(len(x) / BATCH)
    head = {"kernel": np.zeros((x.shape[1], K), x.dtype), "bias": np.zeros(K, x.dtype)}
    optimiser = AdamW(head, weight_decay=0.01)
    with single_threaded_blas():  # these products are too small for two
        for step in range(steps):
            part = slice(step % parts, None, parts)  # a data set may be in order of class
            logits, head_back = linear(x[part], **head)
            _, loss_back = cross_entropy(logits, labels[part])
            _, dhead = head_back(loss_back())
            # packed as the parameters are: kernel first
            gradient = np.concatenate([dhead["kernel"].ravel(), dhead["bias"]])
            fall = 1 - step / steps if parts > 1 else 1  # a part's noise has to die away
            optimiser.update(gradient, rate * fall, threads=1)
    return float(np.mean(linear(test, **head)[0].argmax(-1) == test_labels))


def at_most(images: Array) -> int:
    """How many of the images (n, H, W, C) are read."""
    return min(len(images), NUMBERS // math.prod(images.shape[1:]))


def rows(images: Array, labels: Array) -> tuple[Array, Array]:
    """Some of the images, drawn at random, as rows (m, H W C), and their labels (m,)."""
    n = len(images)
    chosen = np.random.default_rng(0).permutation(n)[: at_most(images)]
    some, labels = take(images, labels, np.sort(chosen))
    return some.reshape(len(some), -1), labels
