"""The UCI handwritten digits: 1,797 real images of 8 x 8 pixels, shipped with the package.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0. Here is its test set, in an order
shuffled once by `make_digits.py`, so that the split can be the first and the last of them.
"""

from pathlib import Path

import numpy as np

from .dataset import Dataset

FILE = Path(__file__).with_name("digits.npz")
TRAIN = 1437  # the remaining 360 are held out


def load_digits(n: int = TRAIN) -> Dataset:
    """The handwritten digits: n, at most 1,437, for training, 360 held out; 8 x 8 in [-1, 1]."""
    with np.load(FILE, allow_pickle=False) as file:
        ink, labels = file["images"], file["labels"].astype(np.int64)
    images = ink[..., None].astype(np.float32) / 8 - 1  # ink is counted from 0 to 16
    return Dataset(
        "digits",
        images[:TRAIN][:n],
        labels[:TRAIN][:n],
        images[TRAIN:],
        labels[TRAIN:],
        classes=tuple("0123456789"),
    )
