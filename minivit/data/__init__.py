"""Data sets, image files and augmentation."""

from .augment import augment, mix
from .cifar import load_cifar10, load_cifar100
from .dataset import ByteImages, Dataset, split_validation, take
from .digits import load_digits
from .folder import FolderImages, describe_unreadable, load_folder
from .images import MAX_PIXELS, describe_mismatch, read_image, read_labels, sample_photograph
from .mnist import load_fashion_mnist, load_mnist
from .preprocessing import Preprocessing, check_images, get_preprocessing
from .resize import ResizedImages, resize_dataset
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
    "DATASETS", "MAX_PIXELS", "SCATTERED_MODEL", "ByteImages", "Dataset", "FolderImages",
    "Preprocessing", "ResizedImages", "augment", "check_images", "describe_mismatch",
    "describe_unreadable", "get_preprocessing", "load_cifar10", "load_cifar100", "load_digits",
    "load_fashion_mnist", "load_folder", "load_mnist", "load_scattered", "mix", "read_image",
    "read_labels", "resize_dataset", "sample_photograph", "split_validation", "take",
]  # fmt: skip
