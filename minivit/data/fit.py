"""Images of another size, or grey ones, for a model that takes others: fitted as they are used."""

import numpy as np

from ..arrays import Array, array_module
from .dataset import Dataset, read
from .preprocessing import HALF, Preprocessing, get_preprocessing
from .resampling import resample


class ResizedImages:
    """Images (n, h, w, c) that are read as (n, H, W, C): what is taken out is resized then.

    All of them at once may be many times what they are made of (100,000 of 24 x 24 grey pixels
    take 0.2 GB, as 224 x 224 in three channels 60 GB). `images[chosen]` is an array.
    """

    def __init__(
        self, images: Array, size: tuple[int, int], channels: int, preprocessing: Preprocessing
    ) -> None:
        self.images, self.preprocessing = images, preprocessing
        self.shape = (len(images), *size, channels)
        self.unreadable = getattr(images, "unreadable", set())
        self.files = getattr(images, "files", ())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: int | slice | Array) -> Array:
        return self._fitted(self.images[chosen])

    def read(self, chosen: slice | Array) -> tuple[Array, Array]:
        """Those of the images that can be read, and which they are: a mask over `resolve_device`."""
        images, good = read(self.images, chosen)
        return self._fitted(images), good

    def _fitted(self, images: Array) -> Array:
        """(..., h, w, c)  ->  (..., H, W, C)"""
        (h, w, c), (H, W, C) = images.shape[-3:], self.shape[1:]
        if (h, w) != (H, W):
            # a new pixel that is larger than an old one has to see all that it covers
            method = "area" if h * w > H * W else "bilinear"
            images = resample(images, (H, W), method)
        if c != C:
            images = array_module(images).repeat(images, C, axis=-1)
        if self.preprocessing.mean == HALF:  # from -1 to 1, as they are
            return images
        return self.preprocessing.normalise((images + 1) * 127.5)


def resize_dataset(
    dataset: Dataset,
    image_size: tuple[int, int],
    channels: int,
    preprocessing: str = "minivit",
) -> Dataset:
    """The data set with images as a model takes them: resized, grey in all channels, boxes scaled.

    preprocessing: the model's, whose mean and deviation the colours are to have. Both parts are
    then `ResizedImages`; a data set that fits already comes back as it is. Raises ValueError for
    coloured images where another number of channels is wanted.
    """
    h, w, c = dataset.images.shape[1:]
    H, W = image_size
    how = get_preprocessing(preprocessing, image_size)
    if (h, w, c) == (H, W, channels) and how.mean == HALF:
        return dataset
    if c not in (1, channels):
        raise ValueError(
            f"the {dataset.name} have {c} channels: only grey images can be given {channels}"
        )
    scale = np.array([H / h, W / w, H / h, W / w])
    boxes, held_out_boxes = (
        None if boxes is None else boxes * scale
        for boxes in (dataset.boxes, dataset.held_out_boxes)
    )
    return dataset._replace(
        images=ResizedImages(dataset.images, image_size, channels, how),
        held_out_images=ResizedImages(dataset.held_out_images, image_size, channels, how),
        boxes=boxes,
        held_out_boxes=held_out_boxes,
    )
