"""Logistic regression on the raw pixels, a baseline for the accuracy of a model."""

import math

import numpy as np

from ..arrays import Array
from ..data import Dataset
from ..data.dataset import take
from ..layers import cross_entropy, linear
from ..optim import AdamW
from ..parallel import single_threaded_blas
from ..tree import pack

MAX_SCALARS = 1 << 26  # kept in memory: 268 MB in float32
BATCH_SIZE = 5_000  # full-batch steps on more images take minutes without a better accuracy
MIN_IMAGES = 1_000  # a smaller sample of a large data set would not be representative


def fit_logistic_regression(
    dataset: Dataset, steps: int = 300, learning_rate: float = 0.03
) -> float | None:
    """Train logistic regression with AdamW and return its held-out accuracy, 0 to 1.

    With at most 5,000 images, each step uses all of them. With more, it uses 5,000 at a time, and
    the learning rate decreases linearly to zero. A large data set is replaced by a random sample
    with 2^26 scalars. Returns None if this sample has fewer than 1,000 images.
    """
    limit = MAX_SCALARS // math.prod(dataset.images.shape[1:])  # images
    if limit < min(MIN_IMAGES, len(dataset.images)):
        return None
    x, labels = sample_rows(dataset.images, dataset.labels, limit)
    test, test_labels = sample_rows(dataset.held_out_images, dataset.held_out_labels, limit)
    K, parts = len(dataset.classes), math.ceil(len(x) / BATCH_SIZE)
    head = {"kernel": np.zeros((x.shape[1], K), x.dtype), "bias": np.zeros(K, x.dtype)}
    optimiser = AdamW(pack(head), weight_decay=0.01)
    with single_threaded_blas():  # these products are too small for two threads
        for step in range(steps):
            part = slice(step % parts, None, parts)  # strided, as images may be sorted by class
            logits, head_back = linear(x[part], **head)
            _, loss_back = cross_entropy(logits, labels[part])
            _, dhead = head_back(loss_back())
            factor = 1 - step / steps if parts > 1 else 1  # the decay averages out batch noise
            optimiser.update(pack(dhead).vector, learning_rate * factor, threads=1)
    logits, _ = linear(test, **head)
    return float(np.mean(logits.argmax(-1) == test_labels))


def sample_rows(images: Array, labels: Array, limit: int) -> tuple[Array, Array]:
    """Return at most `limit` random images as rows (m, H W C), and their labels (m,)."""
    chosen = np.random.default_rng(0).permutation(len(images))[:limit]
    sample, labels = take(images, labels, np.sort(chosen))
    return sample.reshape(len(sample), -1), labels
