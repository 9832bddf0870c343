"""Compute the held-out accuracy of a model, or the few-shot accuracy of its features.

examples:
  python -m minivit evaluate --data cifar10
  python -m minivit evaluate --weights runs/scattered/model.npz
  python -m minivit evaluate --weights vit.npz --data digits --shots 1 5 10 25
"""

import argparse
from collections.abc import Sequence

import numpy as np

from .. import data, training
from ..api import ViT
from ..parallel import batch_slices
from ..training.evaluate import BATCH_SIZE, predict_batches
from . import common, options

MAX_IMAGES = 10_000  # training images from which the few-shot evaluation draws


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    group = parser.add_argument_group("data")
    options.add_options(group, {"data": options.DATA} | options.MAX_PIXELS)
    text = "fit a linear classifier to the features of N training images per class, and print the "
    text += "mean accuracy over 3 random draws (default: evaluate the classifier of the model)"
    parser.add_argument("--shots", type=options.positive, nargs="+", metavar="N", help=text)
    options.add_weights(parser, None, "the result of `train --data`, such as runs/digits/model.npz")


def run(args: argparse.Namespace) -> int:
    """Evaluate a model."""
    model = common.load_model(args)
    dataset = common.load_held_out(model, args, n=MAX_IMAGES if args.shots else None)
    if args.shots:
        evaluate_shots(model, dataset, args.shots)
        return 0
    images = dataset.held_out_images
    score = training.evaluate(model, images, dataset.held_out_labels)
    n = len(images) - len(getattr(images, "unreadable", ()))
    correct = round(score.accuracy * n)
    print(f"{score.accuracy:.2%} held-out accuracy ({correct:,} of {n:,} images)")
    print(f"cross-entropy {score.loss:.4f} nats")
    if unreadable := data.describe_unreadable(dataset):
        print(unreadable)
    return 0


def evaluate_shots(model: ViT, dataset: data.Dataset, shots: Sequence[int]) -> None:
    """Print the few-shot accuracy for each number of images per class."""
    chosen = np.arange(len(dataset.images))
    if len(chosen) > MAX_IMAGES:  # draw at random, because images of a folder are sorted by class
        chosen = np.random.default_rng(0).choice(chosen, MAX_IMAGES, replace=False)
    parts = batch_slices(len(chosen), -(-len(chosen) // BATCH_SIZE))
    batches = (data.take(dataset.images, dataset.labels, chosen[part]) for part in parts)
    train = [(model.features(images), labels) for images, labels in batches if len(labels)]
    features, labels = map(np.concatenate, zip(*train, strict=True))
    test = predict_batches(model.features, dataset.held_out_images, dataset.held_out_labels)
    accuracies = training.evaluate_few_shot(features, labels, *test, shots)
    for n, row in zip(shots, accuracies, strict=True):
        spread = f"{row.min():.2%} to {row.max():.2%} in {len(row)} draws"
        print(f"{n} per class: {row.mean():.2%} held-out accuracy ({spread})")
