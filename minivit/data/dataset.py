"""A data set: training images and held-out images, with labels."""

from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from ..arrays import Array


class Dataset(NamedTuple):
    """Training and held-out images (n, H, W, C), floats in [-1, 1], with labels (n,).

    Images are an array, or an object with `shape` and `__len__` that returns an array when it is
    indexed: `ByteImages`, `FolderImages` or `ResizedImages`. `take` skips unreadable images.

    boxes (n, 4): the object's top, left, bottom and right in pixels (the last two exclusive), or
    None if unknown. source: a name in `DATASETS` or a folder, which a resumed run loads again.
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

    def __repr__(self) -> str:
        n, H, W, C = self.images.shape
        counts = f"{n:,} training and {len(self.held_out_images):,} held-out images"
        return f"<Dataset {self.name}: {counts} of {H} x {W} x {C}, {len(self.classes)} classes>"


class ByteImages:
    """Images (n, H, W, C) stored as uint8. Indexing converts them to float32 in [-1, 1].

    uint8 takes a quarter of the memory of float32: 60,000 images of 32 x 32 x 3 need 0.18 GB.
    """

    def __init__(self, pixels: Array) -> None:
        self.pixels = pixels
        self.shape = pixels.shape

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, indices: int | slice | Array) -> Array:
        images = self.pixels[indices].astype(np.float32)  # (..., H, W, C)
        images /= 127.5
        images -= 1
        return images


class Subset:
    """Some of the images (n, H, W, C) of a data set, which are read when they are indexed."""

    def __init__(self, images: Any, indices: Array) -> None:
        self.images, self.indices = images, indices
        self.shape = (len(indices), *images.shape[1:])
        self.preprocessing = getattr(images, "preprocessing", None)
        self.unreadable = getattr(images, "unreadable", set())

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: int | slice | Array) -> Array:
        return self.images[self.indices[indices]]

    def read(self, indices: slice | Array) -> tuple[Array, Array]:
        """Return the readable images among those selected, and a mask over the selection."""
        return read(self.images, self.indices[indices])


def split_validation(dataset: Dataset, share: float) -> tuple[Dataset, Subset, Array]:
    """Set a share of the training images of each class aside for validation.

    Returns the data set without these images, the images (n, H, W, C) and their labels (n,). The
    split depends only on the labels. A class with one image keeps it. Raises ValueError if the
    share is not above 0 and below 1.

    >>> dataset, images, labels = split_validation(minivit.data.load_digits(), 0.1)
    >>> len(dataset.images), len(images)
    (1294, 143)
    """
    if not 0 < share < 1:
        raise ValueError(f"the share of validation images must be in (0, 1), not {share}")
    labels, kept, chosen = dataset.labels, [], []
    for c in np.unique(labels):
        order = np.random.default_rng([0, int(c)]).permutation(np.flatnonzero(labels == c))
        count = min(len(order) - 1, max(1, round(share * len(order))))
        chosen.append(order[:count])
        kept.append(order[count:])
    kept, chosen = (np.sort(np.concatenate(parts)) for parts in (kept, chosen))
    boxes = None if dataset.boxes is None else dataset.boxes[kept]
    rest = dataset._replace(images=Subset(dataset.images, kept), labels=labels[kept], boxes=boxes)
    return rest, Subset(dataset.images, chosen), labels[chosen]


def take(images: Any, labels: Array, indices: slice | Array) -> tuple[Array, Array]:
    """Return the readable images (B, H, W, C) among those selected, and their labels (B,)."""
    batch, readable = read(images, indices)
    return batch, labels[indices][readable]


def read(images: Any, indices: slice | Array) -> tuple[Array, Array]:
    """Return the readable images among those selected, and a mask over the selection."""
    if hasattr(images, "read"):
        return images.read(indices)
    batch = images[indices]
    return batch, np.ones(len(batch), dtype=bool)


def fingerprint(dataset: Dataset) -> int:
    """Return a checksum of the classes, the labels and the file names of training images."""
    files = (Path(file).name for file in getattr(dataset.images, "files", ()))
    names = "\n".join([*dataset.classes, *files]).encode(errors="backslashreplace")
    labels = np.concatenate([dataset.labels, dataset.held_out_labels])
    return crc32(labels.astype("<i8").tobytes(), crc32(names))
