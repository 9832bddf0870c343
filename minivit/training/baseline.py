"""What a linear model reaches on the raw pixels: the number to hold every accuracy against."""

import numpy as np

from ..data import Dataset
from ..layers import cross_entropy, linear
from ..shards import one_blas_thread
from .optimisers import AdamW


def logistic_regression(data: Dataset, steps: int = 300, rate: float = 0.03) -> float:
    """The held-out accuracy (0 to 1) of logistic regression, trained on whole batches by AdamW."""
    x, test = (a.reshape(len(a), -1) for a in (data.images, data.held_out_images))
    K = len(data.classes)
    head = {"kernel": np.zeros((x.shape[1], K), x.dtype), "bias": np.zeros(K, x.dtype)}
    optimiser = AdamW(head, decay=0.01)
    with one_blas_thread():  # these products are too small for two
        for _ in range(steps):
            logits, head_back = linear(x, **head)
            _, loss_back = cross_entropy(logits, data.labels)
            _, dhead = head_back(loss_back())
            # packed as the parameters are: kernel first
            gradient = np.concatenate([dhead["kernel"].ravel(), dhead["bias"]])
            optimiser.update(gradient, rate, threads=1)
    return float(np.mean(linear(test, **head)[0].argmax(-1) == data.held_out_labels))
