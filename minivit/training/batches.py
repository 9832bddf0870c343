"""The batches of an epoch: shuffled, augmented, and prepared in a background thread."""

import math
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .. import devices
from ..arrays import Array
from ..data import Dataset
from ..data.augment import augment, mix
from ..data.dataset import take
from ..data.preprocessing import HALF
from ..layers.losses import check_labels, check_soft_labels
from ..parallel import batch_slices, single_threaded_blas
from .recipe import Recipe

SHUFFLE = 2**31  # last entry of the shuffling seed; that of a dropout seed, a shard, is smaller

Batch = tuple[Array, Array]  # images (B, H, W, C), labels (B,) or, if mixed, (B, K)


def count_batches(dataset: Dataset, recipe: Recipe) -> int:
    """Return the number of batches per epoch."""
    return math.ceil(len(dataset.images) / recipe.batch_size)


def iterate_batches(
    dataset: Dataset, recipe: Recipe, epoch: int, skip: int = 0
) -> Generator[Batch, None, None]:
    """Yield the training images once, shuffled and augmented, except the first `skip` batches.

    The random numbers depend on the seed and the epoch alone, so a resumed run gets the same
    batches. Skipped batches are still prepared, because this advances the generator. A batch in
    which no image is readable is skipped. Raises ValueError for augmentation that does not fit
    the images.
    """
    check_augmentation(dataset, recipe)
    n, border = len(dataset.images), black_pixel(dataset)
    generator = np.random.default_rng([recipe.seed, epoch, SHUFFLE])
    order = generator.permutation(n)
    for part in batch_slices(n, count_batches(dataset, recipe)):
        images, labels = take(dataset.images, dataset.labels, order[part])
        if len(images) == 0:
            continue
        images = augment(
            images, generator, shift=recipe.shift, border=border, flip=recipe.flip,
            randaugment=recipe.randaugment, randaugment_magnitude=recipe.randaugment_magnitude,
            random_erasing=recipe.random_erasing,
        )  # fmt: skip
        if recipe.mixup or recipe.cutmix:
            K = len(dataset.classes)
            images, labels = mix(
                images, labels, K, generator, mixup=recipe.mixup, cutmix=recipe.cutmix
            )
        if skip:
            skip -= 1
        else:
            yield images, labels


def check_augmentation(dataset: Dataset, recipe: Recipe) -> None:
    """Raise ValueError if the augmentation does not fit the images.

    The shift may not exceed the image. RandAugment and random erasing need colours in [-1, 1].
    """
    side = min(dataset.images.shape[1:3])
    if recipe.shift > side:
        raise ValueError(
            f"shift {recipe.shift} exceeds the image side of {side} pixels. Pass a smaller --shift"
        )
    preprocessing = getattr(dataset.images, "preprocessing", None)
    custom = preprocessing is not None and preprocessing.mean != HALF
    if custom and (recipe.randaugment or recipe.random_erasing):
        raise ValueError(
            "RandAugment and random erasing need colours in [-1, 1], but this model normalises "
            "colours by another mean and standard deviation: train it without them"
        )


def black_pixel(dataset: Dataset) -> Array | float:
    """Return black in the normalisation of the images: one value, or one per channel."""
    preprocessing = getattr(dataset.images, "preprocessing", None)
    return preprocessing.normalise(np.zeros(dataset.images.shape[-1])) if preprocessing else -1.0


def upload_batches(
    batches: Iterator[Batch], classes: int, uploader: "devices.Uploader"
) -> Generator[Batch, None, None]:
    """Copy batches to the GPU. With `prefetch`, the copy overlaps with the previous step.

    Raises ValueError for invalid labels. Labels on a GPU are not checked.
    """
    uploader.begin()
    for images, labels in batches:
        if labels.ndim == 1:
            check_labels(labels, classes)
        else:
            check_soft_labels(labels)
        yield uploader(images), uploader(labels)
        uploader.begin()


def prefetch(batches: Iterator[Batch]) -> Generator[Batch, None, None]:
    """Yield the batches. A background thread prepares each one during the previous step.

    Exceptions of the thread are raised here. The thread ends with the last batch, or when the
    generator is closed. BLAS is limited to one thread throughout: otherwise the last bits of an
    image that is resized in the background would depend on concurrent computations.
    """
    with single_threaded_blas(), ThreadPoolExecutor(1) as thread:
        pending = thread.submit(next, batches, None)
        while (batch := pending.result()) is not None:
            pending = thread.submit(next, batches, None)
            yield batch
