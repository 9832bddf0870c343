"""`evaluate`: how good a model is on held-out images, or its features with a few shots."""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import data, training
from ..api import ViT
from ..arrays import Array
from ..data.dataset import read
from ..training.evaluate import predict_batches
from .arguments import dataset_for, load, must_fit, reading, usual_weights

POOL = 10_000  # images, at most, from which the few shots are drawn


def evaluate(args: argparse.Namespace) -> int:
    """Score a model on held-out images or, with few shots, its features."""
    fields = reading(args)
    args.weights = args.weights or usual_weights(args.data)
    model = load(args.weights, device=args.device, **fields)
    dataset = dataset_for(model, args, n=POOL if args.shots else 1)
    if args.shots:
        report_few_shot(model, dataset, args.shots)
        return 0
    must_fit(model, dataset, args.weights)
    report_score(model, dataset)
    return 0


def report_score(model: ViT, dataset: data.Dataset) -> None:
    """How many of the held-out images it gets right, of those that can be read."""
    images = dataset.held_out_images
    score = training.evaluate(model, images, dataset.held_out_labels)
    n = len(images) - len(getattr(images, "unreadable", ()))
    print(f"{round(score.accuracy * n)} of {n} held-out images right: {score.accuracy:.2%}")
    print(f"cross-entropy {score.loss:.4f} nats")
    if data.describe_unreadable(dataset):
        print(data.describe_unreadable(dataset))


def report_few_shot(model: ViT, dataset: data.Dataset, shots: Sequence[int]) -> None:
    """How well a linear model of the features does that has seen a few images of each class."""
    chosen = np.arange(len(dataset.images))
    if len(chosen) > POOL:  # any: a folder's are sorted by class
        chosen = np.random.default_rng(0).choice(chosen, POOL, replace=False)
    pool = Some(dataset.images, chosen), dataset.labels[chosen]
    test = dataset.held_out_images, dataset.held_out_labels
    known, unknown = (predict_batches(model.features, *part) for part in (pool, test))
    accuracies = training.evaluate_few_shot(*known, *unknown, shots)
    for n, some in zip(shots, accuracies, strict=True):
        low, high = some.min(), some.max()
        spread = f"from {low:.2%} to {high:.2%} in {len(some)} draws"
        print(f"{n} of each class: {some.mean():.2%} of the held-out images right, {spread}")


class Some:
    """The chosen ones of many images (n, H, W, C), each read when it is asked for."""

    def __init__(self, images: Any, chosen: Array) -> None:
        self.images, self.chosen = images, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, part: slice) -> tuple[Array, Array]:
        """Those of a part that can be read, and which they are: a mask over the part."""
        return read(self.images, self.chosen[part])
