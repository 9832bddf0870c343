"""The batches of an epoch: in a new order, changed at random, and made while the last is used."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ..arrays import Array
from ..data import Dataset
from ..data.augment import augment, mix
from ..data.dataset import take
from ..data.preprocessing import HALF
from ..layers.losses import check_labels
from ..parallel import batch_slices, single_threaded_blas
from .recipe import Recipe

SHUFFLE = 2**31  # in the place of a shard's number, so that no shard draws the same numbers

if TYPE_CHECKING:
    from ..cuda.transfer import Uploader

Batch = tuple[Array, Array]  # images (B, H, W, C), labels (B,) or, if mixed, (B, K)


def count_batches(data: Dataset, recipe: Recipe) -> int:
    """How many batches an epoch has."""
    return math.ceil(len(data.images) / recipe.batch_size)


def iterate_batches(data: Dataset, recipe: Recipe, epoch: int) -> Iterator[Batch]:
    """All training images once, in the order of this epoch and changed as the recipe says.

    What is random depends on the seed and the epoch alone: a training that goes on after an
    interruption sees what it would have seen. A batch of which nothing can be read is left out.
    Raises ValueError for changes that do not suit the images.
    """
    check_augmentation(data, recipe)
    n = len(data.images)
    generator = np.random.default_rng([recipe.seed, epoch, SHUFFLE])
    order = generator.permutation(n)
    for part in batch_slices(n, count_batches(data, recipe)):
        images, labels = take(data.images, data.labels, order[part])
        if len(images):
            yield augment_batch(images, labels, data, recipe, generator)


def check_augmentation(data: Dataset, recipe: Recipe) -> None:
    """Raise ValueError for a shift of more than the images, and for changes of colours in [-1, 1]
    where the model wants them in a range of its own.
    """
    side = min(data.images.shape[1:3])
    if recipe.shift > side:
        raise ValueError(f"shift {recipe.shift} is more than the {side} pixels of an image's side")
    how = getattr(data.images, "how", None)
    if how is not None and how.mean != HALF and (recipe.randaugment or recipe.random_erasing):
        raise ValueError(
            "RandAugment and random erasing change colours in [-1, 1], and this model's have a "
            "mean and a deviation of their own: train it without them"
        )


def black_pixel(data: Dataset) -> Array | float:
    """The colour black as the model sees it: -1, or by the mean and deviation of each channel."""
    how = getattr(data.images, "how", None)
    return -1.0 if how is None else how.normalise(np.zeros(data.images.shape[-1]))


def augment_batch(
    images: Array, labels: Array, data: Dataset, recipe: Recipe, generator: np.random.Generator
) -> Batch:
    """A batch as the model is to see it: augmented, then mixed, if the recipe says so."""
    images = augment(
        images,
        generator,
        shift=recipe.shift,
        border=black_pixel(data),
        flip=recipe.flip,
        randaugment=recipe.randaugment,
        randaugment_magnitude=recipe.randaugment_magnitude,
        random_erasing=recipe.random_erasing,
    )
    if not recipe.mixup and not recipe.cutmix:
        return images, labels
    return mix(
        images, labels, len(data.classes), generator, mixup=recipe.mixup, cutmix=recipe.cutmix
    )


def upload_batches(batches: Iterator[Batch], classes: int, send: "Uploader") -> Iterator[Batch]:
    """The same batches on the GPU. Made `prefetch`, they travel while the last one is at work.

    Raises ValueError for labels that are none of the classes: later, nobody reads them.
    """
    send.begin()
    for images, labels in batches:
        if labels.ndim == 1:
            check_labels(labels, classes)
        yield send(images), send(labels)
        send.begin()


def prefetch(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches: while the caller works on one, a thread makes the next.

    What is raised there is raised here. The thread ends with the last batch, or when this is
    closed. All the while BLAS has one thread: if it depended on what the caller is doing, so
    would the last bits of an image that is resized as it is read.
    """
    with single_threaded_blas(), ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch
