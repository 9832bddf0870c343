"""Preprocessing of photographs, by the rules of each family of models.

A picture is a decoded image file (a Pillow image). An image is an array (H, W, C) for a model.
"""

import dataclasses

import numpy as np
from PIL import Image

from ..arrays import Array, as_array
from .resampling import resample

Size = tuple[int, int]  # height and width

HALF = (0.5, 0.5, 0.5)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAX_RESIZED_PIXELS = 100_000_000  # of a picture that has been resized and not yet cropped
MAX_WEIGHTS = 20_000_000  # entries of a resampling matrix; four such matrices are in memory at once


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Rules that turn a picture into an image (H, W, C): resize, crop and normalise.

    short_side: the number of pixels to which the short side is resized before the centre is cropped
    (if H and W differ, the short side of the region that the picture has to cover), or None to
    resize the picture to (H, W) and change its aspect ratio.
    filter: "bilinear", "bicubic", or "area", the mean of all pixels that a new one covers.
    antialias: when shrinking, whether the first two filters use all pixels, as in Pillow, or only
    the nearest ones, as in TensorFlow.
    mean, std: of red, green and blue, from 0 to 1. The image is (colours - mean) / std.

    Raises ValueError for an unknown filter and for a short side below 1.
    """

    short_side: int | None = None
    filter: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF

    def __post_init__(self) -> None:
        choices = [*FILTERS, "area"]
        if self.filter not in choices:
            raise ValueError(f"unknown filter {self.filter!r}: choose {', '.join(choices)}")
        if self.short_side is not None and self.short_side < 1:
            raise ValueError(f"short_side must be at least 1 pixel, not {self.short_side}")

    @property
    def uses_pillow(self) -> bool:
        """Whether Pillow resizes the picture, in bytes. Otherwise `resample` does, in floats."""
        return self.antialias and self.filter != "area"

    def normalise(self, pixels: Array) -> Array:
        """Convert colours (..., C) from 0 to 255 to the model's input, float32."""
        mean, std = self._statistics(pixels.shape[-1])
        return pixels.astype(np.float32) / (255 * std) - mean / std

    def denormalise(self, images: Array) -> Array:
        """Convert a model's input (..., C) to colours from -1 (black) to 1 (white)."""
        mean, std = self._statistics(images.shape[-1])
        return images * (2 * std) + (2 * mean - 1)

    def invert(self, images: Array) -> Array:
        """Exchange black and white in a model's input (..., C)."""
        mean, std = self._statistics(images.shape[-1])
        return (1 - 2 * mean) / std - images

    def _statistics(self, C: int) -> tuple[Array, Array]:
        """Return mean and std of C channels, float32. A grey channel has those of all three."""
        both = np.array([self.mean, self.std], dtype=np.float32)
        mean, std = both if C == 3 else both.mean(1, keepdims=True)
        return mean, std


def get_preprocessing(family: str, image_size: Size) -> Preprocessing:
    """Return the rules of a family in `ViTConfig.preprocessing`, for images of (H, W) pixels.

    minivit      resized to (H, W) by Pillow, in [-1, 1]; Hugging Face's processor is the same
    google       resized to (H, W), bilinear without antialiasing: the authors' fine-tuning
    timm         the central nine tenths, bicubic; from 384 pixels, the entire short side
    imagenet     as minivit, with ImageNet's mean and std: other models on the Hugging Face hub
    dino         short side 256 for 224, bicubic; ImageNet's mean and std
    big_vision   short side 256 for 224, or 448 for 384, by area
    cropped      the entire short side and the centre of the long one: folders of images

    Raises ValueError for another family.
    """
    side = min(image_size)
    large = side >= 384
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
    families = {
        "minivit": Preprocessing(),
        "google": Preprocessing(antialias=False),
        "timm": Preprocessing(side if large else side * 10 // 9, "bicubic"),
        "huggingface": Preprocessing(),
        "imagenet": Preprocessing(mean=mean, std=std),
        "dino": Preprocessing(side * 8 // 7, "bicubic", mean=mean, std=std),
        "big_vision": Preprocessing(side * 7 // 6 if large else side * 8 // 7, "area"),
        "cropped": Preprocessing(side),
    }
    if family not in families:
        raise ValueError(f"unknown preprocessing {family!r}: choose {', '.join(families)}")
    return families[family]


def preprocess(picture: Image.Image, size: Size, preprocessing: Preprocessing) -> Array:
    """Convert a grey or RGB picture to an image (H, W, C), float32, with size = (H, W).

    Raises ValueError if the crop is larger than the resized picture, or if that would be too large.
    """
    (H, W), (h, w) = size, size_before_crop(picture, size, preprocessing)
    if preprocessing.uses_pillow:  # as torchvision
        pixels = np.asarray(picture.resize((w, h), FILTERS[preprocessing.filter]))
        top, left = round((h - H) / 2), round((w - W) / 2)
    else:  # as TensorFlow; big_vision converts the result of its area filter to bytes
        if max(h * picture.height, w * picture.width) > MAX_WEIGHTS:
            raise ValueError(
                f"resampling {picture.height} x {picture.width} pixels to {h} x {w} would need too "
                "much memory"
            )
        bands = [  # one at a time, to save memory
            resample(np.asarray(band, np.float32)[..., None], (h, w), preprocessing.filter)
            for band in picture.split()
        ]
        pixels = np.concatenate(bands, axis=-1)
        pixels = pixels.astype(np.uint8) if preprocessing.filter == "area" else pixels
        top, left = (h - H) // 2, (w - W) // 2
    pixels = pixels.reshape(h, w, -1)[top : top + H, left : left + W]
    return preprocessing.normalise(pixels)


def size_before_crop(picture: Image.Image, size: Size, preprocessing: Preprocessing) -> Size:
    """Return the size (h, w) to which a picture is resized before the crop."""
    s = preprocessing.short_side
    if s is None:
        return size
    (H, W), (width, height), m = size, picture.size, min(size)
    if s < m:
        raise ValueError(
            f"cannot crop {H} x {W} pixels from a picture with a short side of {s} pixels"
        )
    scale = max(H / height, W / width) * s / m
    if height * width * scale**2 > MAX_RESIZED_PIXELS:
        raise ValueError(
            f"the picture of {height} x {width} pixels would become too large with a short side "
            f"of {s} pixels. Pass a smaller --short-side"
        )
    if H * width <= W * height:  # the picture is relatively taller than the image
        h, w = W * height * s / (width * m), W * s / m
    else:
        h, w = H * s / m, H * width * s / (height * m)
    # torchvision truncates, big_vision rounds
    return (int(h), int(w)) if preprocessing.uses_pillow else (round(h), round(w))


def check_images(images: Array, size: Size, channels: int, dtype: np.dtype) -> Array:
    """Return a batch of floating-point images in a model's dtype.

    images (B, H, W, C)  ->  the same shape; complex images keep their dtype
    Raises TypeError if the images are not floats; ValueError if they have another shape, the batch
    is empty, or a pixel is NaN or infinite.
    """
    (H, W), C = size, channels
    images = as_array(images)
    if not hasattr(images, "dtype") or images.dtype.kind not in "fc":
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(
            f"images must be arrays of floats, not {kind}: scale them first, "
            "for example by images / np.float32(127.5) - 1"
        )
    if images.ndim != 4 or images.shape[1:] != (H, W, C):
        raise ValueError(
            f"images of shape {images.shape}: this model expects (B, {H}, {W}, {C}), "
            "that is batch, height, width, channels"
        )
    if len(images) == 0:
        raise ValueError("the batch is empty")
    if images.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinite values are reported below
            images = images.astype(dtype, copy=False)
    if isinstance(images, np.ndarray) and not np.isfinite(images).all():
        bad = int(np.argmax(~np.isfinite(images).all(axis=(1, 2, 3))))
        raise ValueError(f"image {bad} of the batch has pixels that are NaN or infinite")
    return images
