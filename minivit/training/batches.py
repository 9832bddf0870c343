"""The batches of an epoch: shuffled, augmented, and prepared in a background thread."""

import math
from collections.abc import Generator, Iterator
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

SHUFFLE = 2**31  # takes the place of a shard's number in the seed, so the streams differ

if TYPE_CHECKING:
    from ..cuda.transfer import Uploader

Batch = tuple[Array, Array]  # images (B, H, W, C), labels (B,) or, if mixed, (B, K)


def count_batches(dataset: Dataset, recipe: Recipe) -> int:
    """Return the number of batches per epoch."""
    return math.ceil(len(dataset.images) / recipe.batch_size)


def iterate_batches(dataset: Dataset, recipe: Recipe, epoch: int) -> Generator[Batch, None, None]:
    """Yield all training images once, shuffled and augmented.

    The random numbers depend on the seed and the epoch alone, so a resumed training gets the same
    batches. A batch in which no image is readable is skipped. Raises ValueError for augmentation
    that does not fit the images.
    """
    check_augmentation(dataset, recipe)
    n = len(dataset.images)
    generator = np.random.default_rng([recipe.seed, epoch, SHUFFLE])
    order = generator.permutation(n)
    for part in batch_slices(n, count_batches(dataset, recipe)):
        images, labels = take(dataset.images, dataset.labels, order[part])
        if len(images):
            yield augment_batch(images, labels, dataset, recipe, generator)


def check_augmentation(dataset: Dataset, recipe: Recipe) -> None:
    """Raise ValueError if the augmentation does not fit the images.

    The shift may not exceed the image. RandAugment and random erasing need colours in [-1, 1].
    """
    side = min(dataset.images.shape[1:3])
    if recipe.shift > side:
        raise ValueError(f"shift {recipe.shift} exceeds the image side of {side} pixels")
    preprocessing = getattr(dataset.images, "preprocessing", None)
    custom = preprocessing is not None and preprocessing.mean != HALF
    if custom and (recipe.randaugment or recipe.random_erasing):
        raise ValueError(
            "RandAugment and random erasing need colours in [-1, 1], but this model normalises "
            "colours by another mean and standard deviation: train it without them"
        )


def black_pixel(dataset: Dataset) -> Array | float:
    """Return the value of black in the model's colours: a number, or one per channel."""
    preprocessing = getattr(dataset.images, "preprocessing", None)
    if preprocessing is None:
        return -1.0
    return preprocessing.normalise(np.zeros(dataset.images.shape[-1]))


def augment_batch(
    images: Array, labels: Array, dataset: Dataset, recipe: Recipe, generator: np.random.Generator
) -> Batch:
    """Augment and mix a batch as the recipe says."""
    images = augment(
        images,
        generator,
        shift=recipe.shift,
        border=black_pixel(dataset),
        flip=recipe.flip,
        randaugment=recipe.randaugment,
        randaugment_magnitude=recipe.randaugment_magnitude,
        random_erasing=recipe.random_erasing,
    )
    if not recipe.mixup and not recipe.cutmix:
        return images, labels
    K = len(dataset.classes)
    return mix(images, labels, K, generator, mixup=recipe.mixup, cutmix=recipe.cutmix)


def upload_batches(
    batches: Iterator[Batch], classes: int, uploader: "Uploader"
) -> Generator[Batch, None, None]:
    """Copy batches to the GPU. With `prefetch`, the copy overlaps with the previous step.

    Raises ValueError for labels out of range, which are not checked on the GPU.
    """
    uploader.begin()
    for images, labels in batches:
        if labels.ndim == 1:
            check_labels(labels, classes)
        yield uploader(images), uploader(labels)
        uploader.begin()


def prefetch(batches: Iterator[Batch]) -> Generator[Batch, None, None]:
    """Yield the same batches, prepared one ahead in a background thread.

    Exceptions of the thread are raised here. The thread ends with the last batch, or when the
    generator is closed. BLAS is limited to one thread throughout: otherwise the last bits of an
    image that is resized in the background would depend on what the caller computes meanwhile.
    """
    with single_threaded_blas(), ThreadPoolExecutor(1) as thread:
        pending = thread.submit(next, batches, None)
        while (batch := pending.result()) is not None:
            pending = thread.submit(next, batches, None)
            yield batch
