"""MNIST and Fashion-MNIST: 60,000 grey training images of 28 x 28, and 10,000 held out.

Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-Based Learning Applied to Document
Recognition, 1998. H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017, MIT.
The original URL of MNIST no longer works. PyTorch hosts copies of the same files.
"""

import gzip
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from ..files import FileError
from .dataset import ByteImages, Dataset
from .download import DAMAGED_GZIP, DELETE, RemoteFile, download, open_cache
from .images import check_file

NAMES = (
    "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz",
)  # fmt: skip
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FASHION_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
TRAIN = 60_000


class IdxDataset(NamedTuple):
    """A data set of four idx files: training images and labels, held-out images and labels."""

    name: str
    folder: str
    files: tuple[RemoteFile, ...]
    classes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...] = ((TRAIN, 28, 28), (TRAIN,), (10_000, 28, 28), (10_000,))


MNIST = IdxDataset(
    "MNIST digits", "MNIST/raw",
    (
        RemoteFile(MNIST_URL + NAMES[0], 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        RemoteFile(MNIST_URL + NAMES[1], 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        RemoteFile(MNIST_URL + NAMES[2], 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        RemoteFile(MNIST_URL + NAMES[3], 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    tuple("0123456789"),
)  # fmt: skip
FASHION = IdxDataset(
    "Fashion-MNIST images", "FashionMNIST/raw",
    (
        RemoteFile(FASHION_URL + NAMES[0], 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        RemoteFile(FASHION_URL + NAMES[1], 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        RemoteFile(FASHION_URL + NAMES[2], 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        RemoteFile(FASHION_URL + NAMES[3], 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
    (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
)  # fmt: skip


def load_mnist(n: int = TRAIN, root: str | Path | None = None) -> Dataset:
    """Load MNIST's handwritten digits, and download them if necessary.

    Parameters
    ----------
    n : int, optional
        Number of training images. The held-out images do not depend on it.
    root : str or Path, optional
        Cache folder. By default $MINIVIT_DATA, or the cache folder of the platform.

    Raises
    ------
    OSError
        If the download fails (ConnectionError), or if the cache cannot be written or read.
    FileError
        A ValueError. A file is damaged or is not the published one.

    Examples
    --------
    >>> minivit.data.load_mnist(n=1000).images.shape  # doctest: +SKIP
    (1000, 28, 28, 1)
    """
    return load_idx(MNIST, n, root)


def load_fashion_mnist(n: int = TRAIN, root: str | Path | None = None) -> Dataset:
    """Load Zalando's images of clothes. The parameters are those of `load_mnist`."""
    return load_idx(FASHION, n, root)


def load_idx(spec: IdxDataset, n: int, root: str | Path | None = None) -> Dataset:
    """Load a data set of idx files, and download the missing ones."""
    cache, folder = open_cache(root, spec.folder)
    missing = [file for file in spec.files if not idx_path(file, folder).exists()]
    for i, file in enumerate(missing):
        urls = " ".join(file.url for file in missing[i:])
        with download(file, cache, f"place these files in {folder}: {urls}") as path:
            folder.mkdir(parents=True, exist_ok=True)
            os.replace(path, folder / file.name)
    images, labels, *held_out = (
        read_idx(idx_path(file, folder), shape, len(spec.classes))
        for file, shape in zip(spec.files, spec.shapes, strict=True)
    )
    train = ByteImages(images[:n]), labels[:n]
    return Dataset(spec.name, *train, ByteImages(held_out[0]), held_out[1], spec.classes)


def idx_path(file: RemoteFile, folder: Path) -> Path:
    """Return the path of a file, which is compressed unless torchvision has unpacked it."""
    packed = folder / file.name
    unpacked = packed.with_suffix("")
    return unpacked if unpacked.exists() and not packed.exists() else packed


def read_idx(path: Path, shape: tuple[int, ...], K: int) -> Array:
    """Read images (n, H, W, 1), bytes, or labels (n,) of K classes, int64, from an idx file.

    The header is two zeros, 8 for bytes, the number of dimensions, and the size of each dimension
    in four bytes. Raises FileError for a damaged file, a wrong shape, or a label out of range.
    """
    check_file(path)
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
    size = len(header) + math.prod(shape)
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(size + 1)  # at most, because the file may unpack to any size
    except DAMAGED_GZIP as error:
        raise FileError(f"{path} is damaged or truncated ({error}): {DELETE}") from None
    if content[: len(header)] != header or len(content) != size:
        raise FileError(f"{path} is not an idx file of bytes with shape {shape}: {DELETE}")
    array = np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
    if len(shape) > 1:
        return array[..., None]
    if array.max() >= K:
        raise FileError(f"{path} contains label {array.max()}; labels must be below {K}: {DELETE}")
    return array.astype(np.int64)
