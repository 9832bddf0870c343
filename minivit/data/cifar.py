"""CIFAR-10 and CIFAR-100: 50,000 colour training images of 32 x 32, and 10,000 held out.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html (the "binary version" of the archives).
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from .cache import DELETE, open_cache, temporary_folder, unpack
from .dataset import ByteImages, Dataset
from .download import RemoteFile, compute_md5, download
from .images import check_file

URL = "https://www.cs.toronto.edu/~kriz/"
TRAIN = 50_000
SIDE, C = 32, 3


class RecordDataset(NamedTuple):
    """A data set in files of records.

    A record has label bytes, of which the last is the class, then the pixels channel by channel.
    train, test: the number of records in each file. names: the file with the K class names.
    """

    name: str
    folder: str
    archive: RemoteFile
    train: dict[str, int]
    test: dict[str, int]
    names: str
    label_bytes: int
    K: int

    @property
    def sizes(self) -> dict[str, int | None]:
        """The size of each file in bytes, None if unknown. The class names are the last file."""
        record = self.label_bytes + C * SIDE * SIDE
        return {f: n * record for f, n in (self.train | self.test).items()} | {self.names: None}


CIFAR10 = RecordDataset(
    "CIFAR-10 images", "cifar-10-batches-bin",
    RemoteFile(URL + "cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),
    {f"data_batch_{i}.bin": 10_000 for i in range(1, 6)}, {"test_batch.bin": 10_000},
    "batches.meta.txt", label_bytes=1, K=10,
)  # fmt: skip
CIFAR100 = RecordDataset(
    "CIFAR-100 images", "cifar-100-binary",
    RemoteFile(URL + "cifar-100-binary.tar.gz", 168_513_733, "03b5dce01913d631647c71ecec9e9cb8"),
    {"train.bin": TRAIN}, {"test.bin": 10_000},
    "fine_label_names.txt", label_bytes=2, K=100,  # the first byte is the superclass
)  # fmt: skip


def load_cifar10(n: int = TRAIN, root: str | Path | None = None) -> Dataset:
    """Load CIFAR-10, and download it if necessary.

    Parameters
    ----------
    n, root
        As in `load_mnist`, which also lists the exceptions.

    Examples
    --------
    >>> minivit.data.load_cifar10().classes[:3]  # doctest: +SKIP
    ('airplane', 'automobile', 'bird')
    """
    return load_records(CIFAR10, n, root)


def load_cifar100(n: int = TRAIN, root: str | Path | None = None) -> Dataset:
    """Load CIFAR-100 with its 100 fine classes. The interface is that of `load_cifar10`."""
    return load_records(CIFAR100, n, root)


def load_records(spec: RecordDataset, n: int, root: str | Path | None = None) -> Dataset:
    """Load a data set of records. If a file is missing, download the archive and unpack it."""
    cache, folder = open_cache(root, spec.folder)
    if not is_complete(spec, folder):
        archive = cache / spec.archive.name
        if archive.exists():
            unpack_into_cache(spec, archive, cache)
        else:
            alternative = f"place this file in {cache}: {spec.archive.url}"
            with download(spec.archive, cache, alternative) as archive:
                unpack_into_cache(spec, archive, cache)
    images, labels = read_split(spec, spec.train, folder)
    held_out = read_split(spec, spec.test, folder)
    classes = tuple((folder / spec.names).read_text("ascii", errors="replace").split())
    if len(classes) != spec.K:
        raise ValueError(f"{folder / spec.names} has {len(classes)} names, not {spec.K}: {DELETE}")
    return Dataset(spec.name, ByteImages(images.pixels[:n]), labels[:n], *held_out, classes)


def is_complete(spec: RecordDataset, folder: Path) -> bool:
    """Return whether all files of a data set exist."""
    return all((folder / name).exists() for name in spec.sizes)


def unpack_into_cache(spec: RecordDataset, archive: Path, cache: Path) -> None:
    """Verify an archive, unpack it to a temporary folder, and move its files to the cache.

    All files are replaced, because an older layout may have had another order of images. The class
    names are removed first and moved last, so an interrupted replacement leaves them missing. They
    are not removed if another process has completed the folder, and may be reading it.
    """
    if compute_md5(archive) != spec.archive.md5:
        raise ValueError(
            f"{archive} is not the complete file published at {spec.archive.url}: {DELETE}"
        )
    folder, space = cache / spec.folder, sum(filter(None, spec.sizes.values()))
    with temporary_folder(cache, archive.name, space) as temporary:
        entries = {f"{spec.folder}/{name}": size for name, size in spec.sizes.items()}
        unpack(archive, entries, temporary)
        folder.mkdir(exist_ok=True)
        if (folder / spec.names).exists():
            if is_complete(spec, folder):
                return
            (folder / spec.names).unlink(missing_ok=True)
        for name in spec.sizes:
            os.replace(temporary / name, folder / name)


def read_split(
    spec: RecordDataset, files: dict[str, int], folder: Path
) -> tuple[ByteImages, Array]:
    """Read images (n, 32, 32, 3) and labels (n,) from files, in their order.

    Raises ValueError for a file of another size and for a label out of range.
    """
    images, labels = [], []
    for name, n in files.items():
        path, size = folder / name, spec.sizes[name]
        check_file(path)
        table = np.fromfile(path, np.uint8)
        if table.size != size:
            raise ValueError(f"{path} has {table.size:,} bytes, not {size:,}: {DELETE}")
        table = table.reshape(n, -1)  # (n, label bytes + 3072)
        classes, planes = table[:, spec.label_bytes - 1], table[:, spec.label_bytes :]
        if classes.max() >= spec.K:
            raise ValueError(f"{path} has label {classes.max()} of {spec.K} classes: {DELETE}")
        labels.append(classes.astype(np.int64))
        planes = planes.reshape(n, C, SIDE, SIDE)
        images.append(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)))
    return ByteImages(np.concatenate(images)), np.concatenate(labels)
