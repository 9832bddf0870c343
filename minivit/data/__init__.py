"""Data sets, image files and augmentation."""

from .augment import shift
from .dataset import Dataset
from .digits import digits
from .fit import Fitted, fit
from .images import portrait, read_image
from .labels import read_labels
from .preprocessing import Preprocessing, preprocessing_of
from .scattered import SCATTERED_MODEL, scattered

DATASETS = {"digits": digits, "scattered": scattered}

__all__ = [
    "DATASETS",
    "SCATTERED_MODEL",
    "Dataset",
    "Fitted",
    "Preprocessing",
    "digits",
    "fit",
    "portrait",
    "preprocessing_of",
    "read_image",
    "read_labels",
    "scattered",
    "shift",
]
