"""Data sets, image files and augmentation."""

from .augment import shift
from .dataset import Dataset
from .digits import digits
from .images import read_image
from .scattered import scattered

__all__ = ["Dataset", "digits", "read_image", "scattered", "shift"]
