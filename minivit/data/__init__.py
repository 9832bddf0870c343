"""Data sets, image files and augmentation."""

from .augment import shift
from .dataset import Dataset
from .digits import digits
from .images import read_image
from .scattered import SCATTERED_MODEL, scattered

DATASETS = {"digits": digits, "scattered": scattered}

__all__ = ["DATASETS", "SCATTERED_MODEL", "Dataset", "digits", "read_image", "scattered", "shift"]
