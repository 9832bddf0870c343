"""Scattered digits: a digit somewhere among scraps of others, a task that needs attention.

Each image is generated: one of the handwritten digits lies at a random place, and round it lie
small squares cut out of other digits. To name the digit, a model has to find it first. A linear
model, which has one weight for each pixel, cannot.
"""

from pathlib import Path

import numpy as np

from ..arrays import Array
from .dataset import Dataset
from .digits import load_digits

SIDE = 8  # of a digit, in pixels
SCATTERED_MODEL = Path(__file__).with_name("scattered.npz")  # `train --data scattered` made it


def load_scattered(
    n: int = 100_000,
    held_out: int = 2_000,
    size: int = 24,
    scraps: int = 6,
    scrap_size: int = 4,
    seed: int = 0,
) -> Dataset:
    """n images for training and others held out, (n, size, size, 1) in [-1, 1], with the boxes.

    The held-out images, their scraps too, are made of the held-out digits, and are the same for
    any n. The same arguments give the same images. Raises ValueError if the digit or a scrap
    does not fit.
    """
    if size < SIDE or not 1 <= scrap_size <= SIDE:
        raise ValueError(
            f"a digit of {SIDE} pixels must fit into an image of {size}, and a scrap of "
            f"{scrap_size} into a digit"
        )
    plain = load_digits()
    shape = (size, scraps, scrap_size)
    first, second = (np.random.default_rng([seed, part]) for part in range(2))
    train = make_scenes(plain.images, plain.labels, n, *shape, first)
    test = make_scenes(plain.held_out_images, plain.held_out_labels, held_out, *shape, second)
    return Dataset("scattered digits", *train[:2], *test[:2], plain.classes, train[2], test[2])


def make_scenes(
    images: Array,
    labels: Array,
    n: int,
    size: int,
    scraps: int,
    scrap_size: int,
    generator: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """n images (n, size, size, 1), their labels (n,), and the boxes (n, 4) of their digits.

    A box is top, left, bottom, right in pixels, the last two not inside.
    """
    canvas = np.full((n, size, size, 1), -1, dtype=images.dtype)
    for _ in range(scraps):
        other = generator.integers(len(images), size=n)
        piece = extract_squares(
            images[other], random_corners(n, SIDE - scrap_size, generator), scrap_size
        )
        paste(canvas, piece, random_corners(n, size - scrap_size, generator))
    chosen = generator.integers(len(images), size=n)
    place = random_corners(n, size - SIDE, generator)
    paste(canvas, images[chosen], place)  # last: no scrap lies on the digit
    return canvas, labels[chosen], np.concatenate([place, place + SIDE], axis=1)


def random_corners(n: int, largest: int, generator: np.random.Generator) -> Array:
    """n random places (row, column), each from 0 to `largest`."""
    return generator.integers(largest + 1, size=(n, 2))


def extract_squares(images: Array, places: Array, side: int) -> Array:
    """The square at its place in each image, (n, side, side, C)."""
    return images[square_index(places, side)]


def paste(canvas: Array, pieces: Array, places: Array) -> None:
    """Write each piece (n, side, side, C) at its place over the canvas."""
    canvas[square_index(places, pieces.shape[1])] = pieces


def square_index(places: Array, side: int) -> tuple[Array, Array, Array]:
    """The index of a square with its corner at each place: image, row, column."""
    along = np.arange(side)
    rows = places[:, 0, None, None] + along[:, None]  # (n, side, 1)
    columns = places[:, 1, None, None] + along  # (n, 1, side)
    return np.arange(len(places))[:, None, None], rows, columns
