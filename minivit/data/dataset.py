"""What a training needs to know of its images."""

from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from ..arrays import Array


class Dataset(NamedTuple):
    """Images (n, H, W, C) as floats in [-1, 1] and labels (n,), in two parts that never mix.

    Images are an array, or what has a length and a shape and gives an array when it is indexed.
    Those that may fail to be read are asked for with `take`.

    Where it is known which part of an image decides, `boxes` (n, 4) tell it in pixels: top, left,
    bottom, right, the last two not inside. `source` is what finds the data set again: its name on
    the command line, or a folder.
    """

    name: str
    images: Array
    labels: Array
    held_out_images: Array
    held_out_labels: Array
    classes: tuple[str, ...]
    boxes: Array | None = None
    held_out_boxes: Array | None = None
    source: str | None = None


def fingerprint(dataset: Dataset) -> int:
    """A number that is another one for other classes, labels, or names of files to train on."""
    files = (Path(file).name for file in getattr(dataset.images, "files", ()))
    names = "\n".join([*dataset.classes, *files]).encode(errors="backslashreplace")
    labels = np.concatenate([dataset.labels, dataset.held_out_labels])
    return crc32(labels.astype("<i8").tobytes(), crc32(names))


def take(images: Any, labels: Array, chosen: slice | Array) -> tuple[Array, Array]:
    """The chosen images (B, H, W, C) and their labels (B,), without those that cannot be read.

    B may be 0.
    """
    some, good = read(images, chosen)
    return some, labels[chosen][good]


def read(images: Any, chosen: slice | Array) -> tuple[Array, Array]:
    """Those of the chosen images that can be read, and which they are: a mask over `resolve_device`."""
    if hasattr(images, "read"):
        return images.read(chosen)
    some = images[chosen]
    return some, np.ones(len(some), dtype=bool)
