"""The UCI handwritten digits: 1,797 images of 8 x 8 pixels, bundled with the package.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0. These are the images of its test set,
in a random order (`tests/fixtures/make_digits.py`).
"""

from pathlib import Path

import numpy as np

from .dataset import Dataset

FILE = Path(__file__).with_name("digits.npz")
TRAIN = 1437  # the remaining 360 images are held out


def load_digits(n: int = TRAIN) -> Dataset:
    """Load the handwritten digits: grey images of 8 x 8 pixels.

    Parameters
    ----------
    n : int, optional
        Number of training images, at most 1,437. The 360 held-out images do not depend on it.

    Examples
    --------
    >>> minivit.data.load_digits().images.shape
    (1437, 8, 8, 1)
    """
    with np.load(FILE, allow_pickle=False) as file:
        ink, labels = file["images"], file["labels"].astype(np.int64)
    images = ink[..., None].astype(np.float32) / 8 - 1  # ink is an integer from 0 to 16
    train, held_out = (images[:TRAIN][:n], labels[:TRAIN][:n]), (images[TRAIN:], labels[TRAIN:])
    return Dataset("digits", *train, *held_out, classes=tuple("0123456789"))
