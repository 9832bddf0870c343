"""What a training needs to know of its images."""

from typing import NamedTuple

from ..arrays import Array


class Dataset(NamedTuple):
    """Images (n, H, W, C) as floats in [-1, 1] and labels (n,), in two parts that never mix."""

    name: str
    images: Array
    labels: Array
    held_out_images: Array
    held_out_labels: Array
    classes: tuple[str, ...]
