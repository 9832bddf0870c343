"""Data sets, image files and augmentation."""

from .augment import augment, mix
from .cifar import cifar10, cifar100
from .dataset import Dataset, take
from .digits import digits
from .fit import Fitted, fit
from .folder import FolderImages, folder, unreadable
from .images import portrait, read_image
from .labels import read_labels
from .mnist import fashion_mnist, mnist
from .pixels import Pixels
from .preprocessing import Preprocessing, preprocessing_of
from .scattered import SCATTERED_MODEL, scattered

DATASETS = {
    "digits": digits,
    "scattered": scattered,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}

__all__ = [
    "DATASETS",
    "SCATTERED_MODEL",
    "Dataset",
    "Fitted",
    "FolderImages",
    "Pixels",
    "Preprocessing",
    "augment",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "fit",
    "folder",
    "mix",
    "mnist",
    "portrait",
    "preprocessing_of",
    "read_image",
    "read_labels",
    "scattered",
    "take",
    "unreadable",
]
