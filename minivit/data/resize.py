"""Convert a data set to the image size, the channels and the normalisation of a model."""

import numpy as np

from ..arrays import Array, array_module
from .dataset import Dataset, read
from .preprocessing import HALF, Preprocessing, Size, get_preprocessing
from .resampling import resample


class ResizedImages:
    """Images (n, h, w, c) that are converted to (n, H, W, C) when they are indexed or read.

    All of them at once may not fit in memory: 100,000 images of 224 x 224 x 3 need 60 GB.
    """

    def __init__(
        self, images: Array, size: Size, channels: int, preprocessing: Preprocessing
    ) -> None:
        self.images, self.preprocessing = images, preprocessing
        self.shape = (len(images), *size, channels)
        self.unreadable = getattr(images, "unreadable", set())
        self.files = getattr(images, "files", ())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: int | slice | Array) -> Array:
        return self._convert(self.images[indices])

    def read(self, indices: slice | Array) -> tuple[Array, Array]:
        """Return the readable images among those selected, and a mask over the selection."""
        images, readable = read(self.images, indices)
        return self._convert(images), readable

    def _convert(self, images: Array) -> Array:
        """(..., h, w, c)  ->  (..., H, W, C)"""
        (h, w, c), (H, W, C) = images.shape[-3:], self.shape[1:]
        if (h, w) != (H, W):
            images = resample(images, (H, W), "area" if h * w > H * W else "bilinear")
        if c != C:
            images = array_module(images).repeat(images, C, axis=-1)
        if self.preprocessing.mean == HALF:  # the images are in [-1, 1] already
            return images
        return self.preprocessing.normalise((images + 1) * 127.5)


def resize_dataset(
    dataset: Dataset, image_size: Size, channels: int, preprocessing: str = "minivit"
) -> Dataset:
    """Convert a data set to a model's input: resize images and boxes, repeat a grey channel.

    preprocessing: the model's family, which determines the normalisation. Both parts become
    `ResizedImages`, unless they have the right format. Raises ValueError for colour images if the
    model takes another number of channels.
    """
    h, w, c = dataset.images.shape[1:]
    H, W = image_size
    family = get_preprocessing(preprocessing, image_size)
    if (h, w, c) == (H, W, channels) and family.mean == HALF:
        return dataset
    if c not in (1, channels):
        raise ValueError(
            f"the {dataset.name} have {c} channels, but the model takes {channels}: only grey "
            "images can be converted"
        )
    scale = np.array([H / h, W / w, H / h, W / w])
    return dataset._replace(
        images=ResizedImages(dataset.images, image_size, channels, family),
        held_out_images=ResizedImages(dataset.held_out_images, image_size, channels, family),
        boxes=None if dataset.boxes is None else dataset.boxes * scale,
        held_out_boxes=None if dataset.held_out_boxes is None else dataset.held_out_boxes * scale,
    )
