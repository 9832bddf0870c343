"""How a photograph is brought to a model: the rules under which each family was trained."""

import dataclasses

import numpy as np
from PIL import Image

from ..arrays import Array
from .resampling import resample

HALF = (0.5, 0.5, 0.5)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAX_PIXELS = 100_000_000  # pixels of a picture that has been resized and not yet cropped


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From a picture to an image (H, W, C): resized, cropped, and its colours shifted and scaled.

    short_side: None squashes the picture into the image, whatever its shape. With a number it
    keeps its shape: its short side becomes so many pixels, and the image is cut from the middle.
    (Of an image that is not square, it is the short side of what the picture has to cover.)
    filter: "bilinear", "bicubic", or "area", the mean of what a pixel covers.
    antialias: whether the first two see all pixels when they shrink, as Pillow's do, or look only
    at the nearest, as TensorFlow's.
    mean, deviation: of red, green and blue from 0 to 1; an image is (colours - mean) / deviation.

    `dataclasses.replace` changes a rule. Raises ValueError for what no picture can be brought to.
    """

    short_side: int | None = None
    filter: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF

    def __post_init__(self) -> None:
        if self.filter not in (*FILTERS, "area"):
            choices = ", ".join([*FILTERS, "area"])
            raise ValueError(f"unknown filter {self.filter!r}: choose {choices}")
        if self.short_side is not None and self.short_side < 1:
            raise ValueError(f"a short side has 1 pixel or more, not {self.short_side}")

    @property
    def by_pillow(self) -> bool:
        """Whether Pillow resizes, from bytes to bytes; else it is done here, in floats."""
        return self.antialias and self.filter != "area"

    def normalise(self, pixels: Array) -> Array:
        """(..., C) of colours from 0 to 255  ->  (..., C) as the model takes them, float32."""
        mean, deviation = self._of_channels(pixels.shape[-1])
        return pixels.astype(np.float32) / (255 * deviation) - mean / deviation

    def denormalise(self, images: Array) -> Array:
        """Back again: (..., C) as the model takes them  ->  (..., C) from -1, black, to 1."""
        mean, deviation = self._of_channels(images.shape[-1])
        return images * (2 * deviation) + (2 * mean - 1)

    def invert(self, images: Array) -> Array:
        """The negative: dark where it was light."""
        mean, deviation = self._of_channels(images.shape[-1])
        return (1 - 2 * mean) / deviation - images

    def _of_channels(self, C: int) -> tuple[Array, Array]:
        """The mean and the deviation of C channels, float32; one that is grey has the average."""
        both = np.array([self.mean, self.std], dtype=np.float32)
        mean, deviation = both if C == 3 else both.mean(1, keepdims=True)
        return mean, deviation


def get_preprocessing(family: str, image_size: tuple[int, int]) -> Preprocessing:
    """The rules of one of the families in `ViTConfig.preprocessing`, for images of (H, W).

    minivit      squashed by Pillow, [-1, 1]; Hugging Face's processor does the same
    google       squashed, bilinear between the nearest pixels: the authors' fine-tuning
    timm         the middle nine tenths, bicubic; at 384 pixels and more all of the short side
    imagenet     squashed by Pillow, ImageNet's own mean and deviation: others' models on the hub
    dino         short side 256 for 224, bicubic; ImageNet's own mean and deviation
    big_vision   short side 256 for 224, or 448 for 384, by area
    cropped      all of the short side and the middle of the long one: minivit's folders of images

    Raises ValueError for another family.
    """
    side = min(image_size)
    large = side >= 384
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    families = {
        "minivit": Preprocessing(),
        "google": Preprocessing(antialias=False),
        "timm": Preprocessing(side if large else side * 10 // 9, "bicubic"),
        "huggingface": Preprocessing(),
        "imagenet": Preprocessing(**imagenet),
        "dino": Preprocessing(side * 8 // 7, "bicubic", **imagenet),
        "big_vision": Preprocessing(side * 7 // 6 if large else side * 8 // 7, "area"),
        "cropped": Preprocessing(side),
    }
    if family not in families:
        raise ValueError(f"unknown preprocessing {family!r}: choose {', '.join(families)}")
    return families[family]


def preprocess(picture: Image.Image, size: tuple[int, int], how: Preprocessing) -> Array:
    """A picture, grey or RGB  ->  (H, W, C) float32 as a model takes it, size being (H, W).

    Raises ValueError if the short side is too short for the image, or the picture too narrow.
    """
    if how.short_side is None:
        return how.normalise(resize_picture(picture, size, how))
    (H, W), (h, w) = size, size_before_crop(picture, size, how)
    whole = resize_picture(picture, (h, w), how)
    if how.by_pillow:  # torchvision's corner, to the pixel
        top, left = round((h - H) / 2), round((w - W) / 2)
    else:
        top, left = (h - H) // 2, (w - W) // 2
    return how.normalise(whole[top : top + H, left : left + W])


def size_before_crop(
    picture: Image.Image, size: tuple[int, int], how: Preprocessing
) -> tuple[int, int]:
    """(h, w) of the picture just before the crop: of its own shape, and covering the image."""
    (H, W), (width, height) = size, picture.size
    if how.short_side < min(size):
        raise ValueError(
            f"no image of {H} x {W} pixels can be cut from a picture "
            f"whose short side has {how.short_side}"
        )
    scale = max(H / height, W / width) * how.short_side / min(size)
    if height * width * scale**2 > MAX_PIXELS:
        raise ValueError(
            f"with a short side of {how.short_side} pixels the picture, "
            f"which has {height} x {width}, would be too long"
        )
    m, s = min(size), how.short_side
    if H * width <= W * height:  # the picture is tall: W decides
        h, w = W * height * s / (width * m), W * s / m
    else:
        h, w = H * s / m, H * width * s / (height * m)
    rounded = int if how.by_pillow else round  # as torchvision, as big_vision
    return rounded(h), rounded(w)


def resize_picture(picture: Image.Image, size: tuple[int, int], how: Preprocessing) -> Array:
    """(height, width, C), colours from 0 to 255."""
    if how.by_pillow:
        pixels = np.asarray(picture.resize(size[::-1], FILTERS[how.filter]))
        return pixels.reshape(*size, -1)
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1)
    made = resample(pixels.astype(np.float32), size, how.filter)
    return made.astype(np.uint8) if how.filter == "area" else made  # as big_vision does
