"""Scattered digits: a digit among pieces of other digits, a synthetic task that needs attention.

Each image contains one handwritten digit at a random position, and small squares cut out of other
digits. A model has to locate the digit to classify it. A linear model cannot do this, because it
has one weight per pixel and class.
"""

from pathlib import Path

import numpy as np

from ..arrays import Array
from .dataset import Dataset
from .digits import load_digits

SIDE = 8  # of a digit, in pixels
SCATTERED_MODEL = Path(__file__).with_name("scattered.npz")  # made by `train --data scattered`


def load_scattered(
    n: int = 100_000,
    held_out: int = 2_000,
    size: int = 24,
    scraps: int = 6,
    scrap_size: int = 4,
    seed: int = 0,
) -> Dataset:
    """Generate the scattered digits, with the bounding box of the digit in each image.

    Parameters
    ----------
    n, held_out : int, optional
        Number of training and of held-out images. The held-out images are made from the held-out
        digits and do not depend on n.
    size : int, optional
        Side of the images in pixels.
    scraps, scrap_size : int, optional
        Number and side of the squares cut out of other digits.
    seed : int, optional

    Raises
    ------
    ValueError
        If a digit does not fit into the image, or a square into a digit.

    Examples
    --------
    >>> dataset = minivit.data.load_scattered(n=1000)
    >>> dataset.images.shape, dataset.boxes.shape
    ((1000, 24, 24, 1), (1000, 4))
    """
    if size < SIDE or not 1 <= scrap_size <= SIDE:
        raise ValueError(
            f"a digit of {SIDE} pixels must fit into an image of {size}, and a scrap of "
            f"{scrap_size} into a digit"
        )
    digits, layout = load_digits(), (size, scraps, scrap_size)
    train = make_scenes(digits.images, digits.labels, n, layout, [seed, 0])
    test = make_scenes(digits.held_out_images, digits.held_out_labels, held_out, layout, [seed, 1])
    return Dataset("scattered digits", *train[:2], *test[:2], digits.classes, train[2], test[2])


def make_scenes(
    images: Array, labels: Array, n: int, layout: tuple[int, int, int], seed: list[int]
) -> tuple[Array, Array, Array]:
    """Generate n images (n, size, size, 1), labels (n,) and boxes (n, 4) as in `Dataset`.

    layout: (size, scraps, scrap_size) as in `load_scattered`.
    """
    size, scraps, scrap_size = layout
    generator = np.random.default_rng(seed)

    def random_corners(largest: int) -> Array:  # (n, 2), each from 0 to largest
        return generator.integers(largest + 1, size=(n, 2))

    canvas = np.full((n, size, size, 1), -1, dtype=images.dtype)
    for _ in range(scraps):
        sources = images[generator.integers(len(images), size=n)]
        pieces = sources[square_index(random_corners(SIDE - scrap_size), scrap_size)]
        canvas[square_index(random_corners(size - scrap_size), scrap_size)] = pieces
    chosen = generator.integers(len(images), size=n)
    corners = random_corners(size - SIDE)
    canvas[square_index(corners, SIDE)] = images[chosen]  # last, so that no scrap covers the digit
    return canvas, labels[chosen], np.concatenate([corners, corners + SIDE], axis=1)


def square_index(corners: Array, side: int) -> tuple[Array, Array, Array]:
    """Return the index (image, row, column) of one square per image, with corners (n, 2)."""
    offsets = np.arange(side)
    rows = corners[:, 0, None, None] + offsets[:, None]  # (n, side, 1)
    columns = corners[:, 1, None, None] + offsets  # (n, 1, side)
    return np.arange(len(corners))[:, None, None], rows, columns
