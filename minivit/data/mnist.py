"""MNIST and Fashion-MNIST: 60,000 grey images of 28 x 28 to train on, and 10,000 held out.

Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-Based Learning Applied to Document
Recognition, 1998. H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017, MIT.
The first one's own address no longer answers; PyTorch keeps a copy of the same files.
"""

import gzip
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from .archives import DAMAGED_GZIP
from .cache import AGAIN, cache_folder, check_cache_path, report_write_errors
from .dataset import Dataset
from .download import Published, download, manual_instructions
from .images import check_file
from .pixels import ByteImages

NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
TRAIN = 60_000


class IdxFiles(NamedTuple):
    """A data set in four files: images and labels to train on, then images and labels held out.

    Each is an array of bytes behind a head that tells its shape, compressed by gzip.
    """

    name: str
    folder: str
    files: tuple[Published, ...]
    classes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...] = ((TRAIN, 28, 28), (TRAIN,), (10_000, 28, 28), (10_000,))


def four_files(address: str, *published: tuple[int, str]) -> tuple[Published, ...]:
    """The files at an address, from their sizes and checksums."""
    return tuple(Published(address + name, *of) for name, of in zip(NAMES, published, strict=True))


MNIST = IdxFiles(
    "MNIST digits",
    "MNIST/raw",
    four_files(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        (28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        (1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        (4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    tuple("0123456789"),
)
FASHION = IdxFiles(
    "Fashion-MNIST images",
    "FashionMNIST/raw",
    four_files(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        (29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        (4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        (5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
    (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
)  # fmt: skip


def load_mnist(n: int = TRAIN, root: Path | None = None) -> Dataset:
    """MNIST's digits, the first n of them to train on; downloaded if they are not there.

    root: the cache, if it is not the usual one. Raises OSError or ValueError, see `load_idx`.
    """
    return load_idx(MNIST, n, root)


def load_fashion_mnist(n: int = TRAIN, root: Path | None = None) -> Dataset:
    """Zalando's pictures of clothes, drop-in for MNIST; the arguments are the same."""
    return load_idx(FASHION, n, root)


def load_idx(published: IdxFiles, n: int, root: Path | None = None) -> Dataset:
    """A data set from its four files, of which those that are missing are downloaded.

    Raises ConnectionError without a network, OSError if the cache cannot be written or read,
    ValueError if a file is damaged or is not what it should be.
    """
    root = cache_folder() if root is None else Path(root)
    folder = root / published.folder
    check_cache_path(folder)
    missing = [file for file in published.files if find_file(file, folder) is None]
    for i, file in enumerate(missing):
        instead = manual_instructions(missing[i:], folder)
        with download(file, root, instead) as came, report_write_errors(file.name, file.size, root):
            folder.mkdir(parents=True, exist_ok=True)
            os.replace(came, folder / file.name)
    arrays = [
        read_idx(find_file(file, folder), shape)
        for file, shape in zip(published.files, published.shapes, strict=True)
    ]
    images, labels, held_out_images, held_out_labels = arrays
    K = len(published.classes)
    for file, some in zip(published.files[1::2], arrays[1::2], strict=True):
        if some.max() >= K:
            raise ValueError(f"{find_file(file, folder)} has a label {some.max()}, of {K}: {AGAIN}")
    return Dataset(
        published.name,
        ByteImages(images[:n, :, :, None]),
        labels[:n].astype(np.int64),
        ByteImages(held_out_images[..., None]),
        held_out_labels.astype(np.int64),
        published.classes,
    )


def find_file(file: Published, folder: Path) -> Path | None:
    """Where a file lies: as it was published, or unpacked, as torchvision leaves it; or None."""
    both = folder / file.name, folder / file.name.removesuffix(".gz")
    return next((path for path in both if path.exists()), None)


def read_idx(path: Path, shape: tuple[int, ...]) -> Array:
    """The bytes of an idx file, compressed or not, as an array of this shape.

    The head is two zeros, 8 for bytes, the number of dimensions, and each of them in four bytes.
    Raises ValueError if the file is damaged, truncated, or of another shape.
    """
    check_file(path)
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except DAMAGED_GZIP as error:
        raise ValueError(f"{path} is damaged or truncated ({error}): {AGAIN}") from None
    head = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
    if content[: len(head)] != head or len(content) != len(head) + math.prod(shape):
        raise ValueError(f"{path} does not hold {shape} bytes in the idx format: {AGAIN}")
    return np.frombuffer(content, np.uint8, offset=len(head)).reshape(shape)
