"""Data sets, image files and augmentation."""

from .augment import augment, mix
from .cifar import load_cifar10, load_cifar100
from .dataset import Dataset, take
from .digits import load_digits
from .fit import ResizedImages, resize_dataset
from .folder import FolderImages, describe_unreadable, load_folder
from .images import read_image, sample_photograph
from .labels import read_labels
from .mnist import load_fashion_mnist, load_mnist
from .pixels import ByteImages
from .preprocessing import Preprocessing, get_preprocessing
from .scattered import SCATTERED_MODEL, load_scattered

DATASETS = {
    "digits": load_digits,
    "scattered": load_scattered,
    "mnist": load_mnist,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
}

__all__ = [
    "DATASETS",
    "SCATTERED_MODEL",
    "Dataset",
    "ResizedImages",
    "FolderImages",
    "ByteImages",
    "Preprocessing",
    "augment",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_fashion_mnist",
    "resize_dataset",
    "load_folder",
    "mix",
    "load_mnist",
    "sample_photograph",
    "get_preprocessing",
    "read_image",
    "read_labels",
    "load_scattered",
    "take",
    "describe_unreadable",
]
