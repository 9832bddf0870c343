"""Changes to a batch of training images: those that leave each class alone, and those that mix two.

Everything here works on whole batches of floats in [-1, 1], on the host, draws from the generator
it is given and from nothing else, and never writes into its input. RandAugment has a file of its
own beside this one. What it costs one core, in µs for each image of 32x32x3 of 128: shift 7,
flip 5, one operation of RandAugment 30 (solarise 6, rotate 50), erasing 9, mixup and cutmix 4.
"""

import math

import numpy as np

from ..arrays import Array
from ..layers.losses import check_labels
from .randaugment import apply_randaugment, gather_pixels

AREA = (0.02, 0.33)  # of a box that is erased, as a share of its image
ASPECT = (0.3, 1 / 0.3)  # its height over its width


def augment(
    images: Array,
    generator: np.random.Generator,
    *,
    shift: int = 0,
    border: Array | float = -1.0,
    flip: bool = False,
    randaugment: int = 0,
    randaugment_magnitude: float = 9.0,
    random_erasing: float = 0.0,
) -> Array:
    """Change each image at random, in ways that leave its class alone; in this order:

    shift: move it by up to so many pixels, over a border of this colour; flip: mirror it, with
    chance 1/2; randaugment: so many operations of RandAugment, at this magnitude from 0 to 10;
    erase: the chance of losing a box.

    images (B, H, W, C) in [-1, 1]  ->  the same shape, type and range; the images themselves if
    everything is off. Raises ValueError for a setting out of its range.
    """
    if shift < 0 or randaugment < 0:
        raise ValueError(f"shift and randaugment count from 0 up: not {shift} and {randaugment}")
    if not 0 <= random_erasing <= 1:
        raise ValueError(f"random_erasing is a chance from 0 to 1, not {random_erasing}")
    if shift:
        images = random_shift(images, shift, generator, border)
    if flip:
        images = random_flip(images, generator)
    if randaugment:
        images = apply_randaugment(images, randaugment, randaugment_magnitude, generator)
    if random_erasing:
        images = random_erase(images, random_erasing, generator)
    return images


def random_shift(
    images: Array, pixels: int, generator: np.random.Generator, border: Array | float = -1.0
) -> Array:
    """Move each image by up to so many pixels in each direction, at random.

    This is the random crop from an image padded by so many pixels, drawn for each image anew.
    images (B, H, W, C), border one number or (C,)  ->  the same shape as the images.
    """
    B, H, W, C = images.shape
    padded = np.empty((B, H + 2 * pixels, W + 2 * pixels, C), images.dtype)
    padded[:] = border
    padded[:, pixels : pixels + H, pixels : pixels + W] = images
    down, right = generator.integers(0, 2 * pixels + 1, size=(2, B, 1, 1, 1))
    rows = down + np.arange(H)[:, None, None]  # (B, H, 1, 1)
    columns = right + np.arange(W)[:, None]  # (B, 1, W, 1)
    return gather_pixels(padded, rows, columns)


def random_flip(images: Array, generator: np.random.Generator) -> Array:
    """Each image (B, H, W, C) as it is, or left and right exchanged, with chance 1/2 each."""
    mirrored = generator.random(len(images)) < 0.5  # (B,)
    images = images.copy()
    images[mirrored] = images[mirrored, :, ::-1]
    return images


def random_erase(images: Array, chance: float, generator: np.random.Generator) -> Array:
    """Random erasing: with this chance, a box of the image is lost to noise.

    images (B, H, W, C)  ->  the same shape. The box covers 2 to 33 % of its image, is 0.3 to 3.3
    times as high as wide, lies wherever it fits, and holds noise from all of [-1, 1], drawn for
    every pixel and channel. (Zhong et al., 2020, section 3, algorithm 1, with its `RE-R` filling.
    There a box that is too long is drawn again; here it is cut to the side of the image.)
    """
    B, H, W, C = images.shape
    hit = generator.random(B) < chance  # (B,)
    area = generator.uniform(*AREA, size=B) * (H * W)  # in pixels
    aspect = generator.uniform(*ASPECT, size=B)
    rows = random_interval(np.sqrt(area * aspect), H, generator)
    columns = random_interval(np.sqrt(area / aspect), W, generator)
    lost = rows[:, :, None] & columns[:, None, :] & hit[:, None, None]
    images = images.copy()
    images[lost] = generator.uniform(-1, 1, size=(np.count_nonzero(lost), C))
    return images


def random_interval(length: Array, side: int, generator: np.random.Generator) -> Array:
    """For each length (B,) a stretch of about so many pixels, at a random place on a side.

    Returns a mask (B, side); the lengths are rounded to whole pixels that fit, at least one.
    """
    length = np.rint(length).astype(int).clip(1, side)[:, None]
    start = generator.integers(side - length + 1)  # (B, 1)
    place = np.arange(side)
    return (start <= place) & (place < start + length)


# --- mixing two images ------------------------------------------------------------------------


def mix(
    images: Array,
    labels: Array,
    classes: int,
    generator: np.random.Generator,
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> tuple[Array, Array]:
    """Mix each image with its neighbour in the batch, and their labels by the same share.

    mixup, cutmix: both parameters of the Beta distribution that the share is drawn from, 0 for
    none; with both given, a fair coin decides for each batch. One share serves the whole batch,
    and the partner is the batch rolled by one, as in the authors' "Better plain ViT baselines".

    images (B, H, W, C), labels (B,) integers or (B, K) soft, classes K  ->  images of the same
    shape and type, labels (B, K) float32: without mixing, one-hot and the images themselves.
    Raises ValueError for a parameter below 0, and for labels of another shape or out of range.
    """
    for name, beta in {"mixup": mixup, "cutmix": cutmix}.items():
        if not 0 <= beta < math.inf:
            raise ValueError(f"{name} is a parameter of the Beta distribution, not {beta}")
    targets = to_soft_labels(labels, len(images), classes)  # (B, K)
    if not mixup and not cutmix:
        return images, targets
    if cutmix and (not mixup or generator.random() < 0.5):
        kept = sample_cutmix_mask(images, cutmix, generator)
    else:
        kept = sample_mixup_weight(images, mixup, generator)
    share = kept.mean(dtype=np.float64).astype(np.float32)
    return mix_with_neighbour(images, kept), mix_with_neighbour(targets, share)


def mix_with_neighbour(x: Array, kept: Array) -> Array:
    """What is kept of each entry of a batch, the rest from the entry before it.

    Zeros and ones in `kept` give exact copies; for a number from 1/2 up, 1 - kept is exact, and so
    no rounding takes a mixture out of [-1, 1].
    """
    mixed = np.roll(x, 1, axis=0)
    mixed *= 1 - kept
    mixed += kept * x
    return mixed


def sample_mixup_weight(images: Array, beta: float, generator: np.random.Generator) -> Array:
    """mixup: every pixel keeps the same share λ of itself. (Zhang et al., 2018, section 2)

    λ is drawn from Beta(beta, beta), then replaced by the larger of λ and 1 - λ: the distribution
    is symmetric, and so an image stays the main part of its mixture. Returns λ as an array ().
    """
    share = generator.beta(beta, beta)
    return np.asarray(max(share, 1 - share), images.dtype)


def sample_cutmix_mask(images: Array, beta: float, generator: np.random.Generator) -> Array:
    """CutMix: pixels are kept, but for those in a box. (Yun et al., 2019, section 3.1)

    λ is drawn from Beta(beta, beta), the box has the sides H √(1-λ) and W √(1-λ) and its centre
    anywhere, and what hangs over the border is cut off. Returns the mask (H, W, C), 0 in the box
    and 1 elsewhere: its mean is the share of the image that is truly kept, which labels go by.
    """
    _, H, W, C = images.shape
    side = math.sqrt(1 - generator.beta(beta, beta))
    height, width = round(H * side), round(W * side)
    top = generator.integers(H) - height // 2
    left = generator.integers(W) - width // 2
    kept = np.ones((H, W, C), images.dtype)
    kept[max(top, 0) : top + height, max(left, 0) : left + width] = 0
    return kept


def to_soft_labels(labels: Array, B: int, K: int) -> Array:
    """Labels (B,) as one-hot rows (B, K) float32; labels that are such rows stay what they are."""
    if labels.shape == (B, K):
        return labels.astype(np.float32)
    if labels.shape != (B,):
        raise ValueError(f"labels of shape {labels.shape} for {B} images of {K} classes")
    check_labels(labels, K)
    return (labels[:, None] == np.arange(K)).astype(np.float32)
