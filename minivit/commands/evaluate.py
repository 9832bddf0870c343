"""`evaluate`: how good a model is on held-out images, or its features with a few shots."""

import argparse
from collections.abc import Sequence

from .. import training
from ..data import Dataset
from ..model import ViT
from .arguments import dataset_for, load, must_fit, reading

POOL = 10_000  # images, at most, from which the few shots are drawn


def evaluate(args: argparse.Namespace) -> int:
    """Score a model on held-out images or, with few shots, its features."""
    model = load(args.weights, **reading(args))
    dataset = dataset_for(model, args, n=POOL if args.shots else 1)
    if args.shots:
        report_few_shot(model, dataset, args.shots)
        return 0
    must_fit(model, dataset, args.weights)
    score = training.evaluate(model, dataset.held_out_images, dataset.held_out_labels)
    n = len(dataset.held_out_labels)
    print(f"{round(score.accuracy * n)} of {n} held-out images right: {score.accuracy:.2%}")
    print(f"cross-entropy {score.loss:.4f} nats")
    return 0


def report_few_shot(model: ViT, dataset: Dataset, shots: Sequence[int]) -> None:
    """How well a linear model of the features does that has seen a few images of each class."""
    features, test_features = (
        training.in_batches(model.features, images)
        for images in (dataset.images, dataset.held_out_images)
    )
    labels, test_labels = dataset.labels, dataset.held_out_labels
    accuracies = training.few_shot(features, labels, test_features, test_labels, shots)
    for n, some in zip(shots, accuracies, strict=True):
        low, high = some.min(), some.max()
        spread = f"from {low:.2%} to {high:.2%} in {len(some)} draws"
        print(f"{n} of each class: {some.mean():.2%} of the held-out images right, {spread}")
