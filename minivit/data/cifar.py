"""CIFAR-10 and CIFAR-100: 50,000 coloured images of 32 x 32 to train on, and 10,000 held out.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html; the archives that are called binary.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from .archives import unpack
from .cache import AGAIN, cache_folder, check_cache_path, report_write_errors, temporary_folder
from .dataset import Dataset
from .download import Published, compute_md5, download, manual_instructions
from .images import check_file
from .pixels import ByteImages

TORONTO = "https://www.cs.toronto.edu/~kriz/"
TRAIN = 50_000
SIDE, C = 32, 3


class Records(NamedTuple):
    """A data set in files of records: label bytes, of which the last counts, then the pixels.

    train, test: how many records each file has. names: the file with the names of the K classes.
    """

    name: str
    folder: str
    archive: Published
    train: dict[str, int]
    test: dict[str, int]
    names: str
    label_bytes: int
    K: int

    def bytes_of(self, records: int) -> int:
        """The size of a file with so many records."""
        return records * (self.label_bytes + C * SIDE * SIDE)


CIFAR10 = Records(
    "CIFAR-10 images",
    "cifar-10-batches-bin",
    Published(TORONTO + "cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),
    {f"data_batch_{i}.bin": 10_000 for i in range(1, 6)},
    {"test_batch.bin": 10_000},
    "batches.meta.txt",
    label_bytes=1,
    K=10,
)
CIFAR100 = Records(
    "CIFAR-100 images",
    "cifar-100-binary",
    Published(TORONTO + "cifar-100-binary.tar.gz", 168_513_733, "03b5dce01913d631647c71ecec9e9cb8"),
    {"train.bin": TRAIN},
    {"test.bin": 10_000},
    "fine_label_names.txt",
    label_bytes=2,  # of the superclass, of the class
    K=100,
)


def load_cifar10(n: int = TRAIN, root: Path | None = None) -> Dataset:
    """CIFAR-10, the first n images to train on; downloaded if it is not there.

    root: the cache, if it is not the usual one. Raises OSError or ValueError, see `load_records`.
    """
    return load_records(CIFAR10, n, root)


def load_cifar100(n: int = TRAIN, root: Path | None = None) -> Dataset:
    """CIFAR-100 with its 100 fine classes; the arguments are the same."""
    return load_records(CIFAR100, n, root)


def load_records(published: Records, n: int, root: Path | None = None) -> Dataset:
    """A data set from its files; if one is missing, all come out of the archive, from the network.

    Raises ConnectionError without a network, OSError if the cache cannot be written or read,
    ValueError if a file or the archive is damaged or is not what it should be.
    """
    root = cache_folder() if root is None else Path(root)
    folder = root / published.folder
    check_cache_path(folder)
    if not all((folder / name).exists() for name in file_sizes(published)):
        download_or_unpack(published, root)
    images, labels = read_split(published, published.train, folder)
    held_out_images, held_out_labels = read_split(published, published.test, folder)
    return Dataset(
        published.name,
        ByteImages(images[:n]),
        labels[:n],
        ByteImages(held_out_images),
        held_out_labels,
        read_names(folder / published.names, published.K),
    )


def download_or_unpack(published: Records, root: Path) -> None:
    """Unpack the archive that lies in the cache, or else one that is downloaded."""
    archive = root / published.archive.name
    if archive.exists():
        check_archive(archive, published.archive)
        unpack_into_cache(published, archive, root)
        return
    with download(published.archive, root, manual_instructions([published.archive], root)) as came:
        unpack_into_cache(published, came, root)


def file_sizes(published: Records) -> dict[str, int | None]:
    """The files that are wanted, and their bytes; those of the names nobody knows."""
    files = published.train | published.test
    return {name: published.bytes_of(n) for name, n in files.items()} | {published.names: None}


def unpack_into_cache(published: Records, archive: Path, root: Path) -> None:
    """Unpack beside the data set's folder, and when all is there move the files into it.

    All are replaced: those of an older layout may have the images in another order. The names of
    the classes go first and come last, so that a folder of which some are old lacks them.
    """
    wanted = file_sizes(published)
    folder, room = root / published.folder, sum(filter(None, wanted.values()))
    with temporary_folder(root) as own, report_write_errors(archive.name, room, root):
        entries = {f"{published.folder}/{name}": size for name, size in wanted.items()}
        unpack(archive, entries, own)
        folder.mkdir(exist_ok=True)
        (folder / published.names).unlink(missing_ok=True)
        for name in wanted:  # the names are the last of them
            os.replace(own / name, folder / name)


def check_archive(archive: Path, published: Published) -> None:
    """Raise ValueError if an archive is another than the published one, or not whole."""
    if compute_md5(archive) != published.md5:
        raise ValueError(
            f"{archive} is not the file published at {published.address}, or not all of it: {AGAIN}"
        )


def read_split(published: Records, files: dict[str, int], folder: Path) -> tuple[Array, Array]:
    """Images (n, 32, 32, 3) as bytes and labels (n,) from some files, in their order."""
    parts = [read_records(published, folder / name, n) for name, n in files.items()]
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images, labels


def read_records(published: Records, path: Path, n: int) -> tuple[Array, Array]:
    """The images (n, 32, 32, 3) and the labels (n,) of one file.

    Raises ValueError for a file of another size, or a label that there is not.
    """
    check_file(path)
    table = np.fromfile(path, np.uint8)
    if table.size != published.bytes_of(n):
        raise ValueError(f"{path} has {table.size:,} bytes, not {published.bytes_of(n):,}: {AGAIN}")
    table = table.reshape(n, -1)  # (n, label bytes + 3072)
    labels = table[:, published.label_bytes - 1].astype(np.int64)
    if labels.max() >= published.K:
        raise ValueError(f"{path} has a label {labels.max()}, of {published.K}: {AGAIN}")
    planes = table[:, published.label_bytes :].reshape(n, C, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def read_names(path: Path, K: int) -> tuple[str, ...]:
    """The K names in a file, one on each line. Raises ValueError if there are fewer or more."""
    names = tuple(path.read_text("ascii", errors="replace").split())
    if len(names) != K:
        raise ValueError(f"{path} has {len(names)} names, not {K}: {AGAIN}")
    return names
