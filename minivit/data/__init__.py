"""Data sets, image files and augmentation."""

from .augment import shift
from .dataset import Dataset
from .digits import digits
from .images import read_image
from .scattered import scattered

DATASETS = {"digits": digits, "scattered": scattered}

__all__ = ["DATASETS", "Dataset", "digits", "read_image", "scattered", "shift"]
