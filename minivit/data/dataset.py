"""What a training needs to know of its images."""

from typing import NamedTuple

from ..arrays import Array


class Dataset(NamedTuple):
    """Images (n, H, W, C) as floats in [-1, 1] and labels (n,), in two parts that never mix.

    Where it is known which part of an image decides, `boxes` (n, 4) tell it in pixels: top, left,
    bottom, right, the last two not inside.
    """

    name: str
    images: Array
    labels: Array
    held_out_images: Array
    held_out_labels: Array
    classes: tuple[str, ...]
    boxes: Array | None = None
    held_out_boxes: Array | None = None
