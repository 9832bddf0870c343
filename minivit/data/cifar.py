"""CIFAR-10 and CIFAR-100: 50,000 colour training images of 32 x 32, and 10,000 held out.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html (the "binary version" of the archives).
"""

import gzip
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..files import FileError
from .dataset import ByteImages, Dataset
from .download import DAMAGED_GZIP, DELETE, RemoteFile, download, open_cache, temporary_folder
from .images import check_file

URL = "https://www.cs.toronto.edu/~kriz/"
TRAIN = 50_000
SIDE, C = 32, 3
MAX_UNPACKED = 300_000_000  # bytes per archive; a CIFAR archive unpacks to 186 MB
MAX_NAME_CHARACTERS = 10_000  # in the file with the class names


class RecordDataset(NamedTuple):
    """A data set in files of records: label bytes, then the pixels of one channel after another.

    train, test: the number of records in each file. names: the file with the K class names. The
    last of the label bytes is the class.
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
    def sizes(self) -> dict[str, int]:
        """The size of each file of records in bytes."""
        record = self.label_bytes + C * SIDE * SIDE
        return {name: n * record for name, n in (self.train | self.test).items()}


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
    """Load CIFAR-10, and download it if necessary. See `load_mnist` for parameters and exceptions.

    Examples
    --------
    >>> minivit.data.load_cifar10().classes[:3]  # doctest: +SKIP
    ('airplane', 'automobile', 'bird')
    """
    return load_records(CIFAR10, n, root)


def load_cifar100(n: int = TRAIN, root: str | Path | None = None) -> Dataset:
    """Load CIFAR-100 with its 100 fine classes. The parameters are those of `load_cifar10`."""
    return load_records(CIFAR100, n, root)


def load_records(spec: RecordDataset, n: int, root: str | Path | None = None) -> Dataset:
    """Load a data set of records. Download and unpack its archive if a file is missing."""
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
    check_file(folder / spec.names)
    with open(folder / spec.names, encoding="ascii", errors="replace") as file:
        classes = tuple(file.read(MAX_NAME_CHARACTERS).split())
    if len(classes) != spec.K:
        raise FileError(f"{folder / spec.names} has {len(classes)} names, not {spec.K}: {DELETE}")
    return Dataset(spec.name, ByteImages(images.pixels[:n]), labels[:n], *held_out, classes)


def is_complete(spec: RecordDataset, folder: Path) -> bool:
    """Return whether all files of a data set exist."""
    return all((folder / name).exists() for name in (*spec.sizes, spec.names))


def unpack_into_cache(spec: RecordDataset, archive: Path, cache: Path) -> None:
    """Verify an archive, unpack it to a temporary folder, and move its files to the cache.

    All files are replaced, because files cached in an older layout may have another order. The
    class names are deleted first and moved last, so `is_complete` is False after an interruption.
    A folder that another process has completed is left unchanged, because it may be in use.
    """
    if not spec.archive.matches(archive):
        raise FileError(
            f"{archive} is not the complete file published at {spec.archive.url}: {DELETE}"
        )
    folder, names = cache / spec.folder, [*spec.sizes, spec.names]
    with temporary_folder(cache, archive.name, sum(spec.sizes.values())) as temporary:
        unpack(archive, [f"{spec.folder}/{name}" for name in names], temporary)
        if is_complete(spec, folder):
            return
        folder.mkdir(exist_ok=True)
        (folder / spec.names).unlink(missing_ok=True)
        for name in names:
            os.replace(temporary / name, folder / name)


def unpack(archive: Path, names: Iterable[str], folder: Path) -> None:
    """Extract the named entries of a .tar.gz to a folder, without the folders in their names.

    Raises FileError if the archive is damaged, lacks an entry, or contains an unsafe one. Some
    files may have been extracted by then.
    """
    missing = set(names)
    try:
        with gzip.open(archive) as file:
            limited: Any = LimitedFile(file)
            tar = tarfile.open(fileobj=limited, mode="r|")  # noqa: SIM115
            for entry in tar:
                check_entry(entry, archive.name)
                path = PurePosixPath(entry.name)  # without a leading ./
                if str(path) in missing and (stream := tar.extractfile(entry)):
                    (folder / path.name).write_bytes(stream.read())
                    missing.remove(str(path))
    except FileError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, *DAMAGED_GZIP) as error:
        raise FileError(f"{archive.name} is damaged or truncated: {error}") from None
    if missing:
        raise FileError(f"{archive.name} is incomplete: it lacks {', '.join(sorted(missing))}")


class LimitedFile:
    """A file that ends after MAX_UNPACKED bytes, because an archive may unpack to any size."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self.file, self.remaining = file, MAX_UNPACKED

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes."""
        content = self.file.read(min(size, self.remaining))
        self.remaining -= len(content)
        return content


def check_entry(entry: tarfile.TarInfo, archive: str) -> None:
    """Raise FileError for a link, a special file, or a path that leaves the extraction folder."""
    path = PurePosixPath(entry.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise FileError(
            f"{archive} is unsafe: the path {entry.name!r} leaves the extraction folder"
        )
    if not (entry.isdir() or (entry.isfile() and not entry.issparse())):
        raise FileError(f"{archive} is unsafe: {entry.name!r} is a link or a special file")


def read_split(
    spec: RecordDataset, files: dict[str, int], folder: Path
) -> tuple[ByteImages, Array]:
    """Read images (n, 32, 32, 3) and labels (n,). Raises FileError for a damaged file."""
    images, labels = [], []
    for name, n in files.items():
        path, size = folder / name, spec.sizes[name]
        check_file(path)
        if path.stat().st_size != size:
            raise FileError(f"{path} has {path.stat().st_size:,} bytes, not {size:,}: {DELETE}")
        table = np.fromfile(path, np.uint8).reshape(n, -1)  # (n, label bytes + 3072)
        classes, planes = table[:, spec.label_bytes - 1], table[:, spec.label_bytes :]
        if classes.max() >= spec.K:
            raise FileError(
                f"{path} contains label {classes.max()}; labels must be below {spec.K}: {DELETE}"
            )
        labels.append(classes.astype(np.int64))
        planes = planes.reshape(n, C, SIDE, SIDE)
        images.append(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)))
    return ByteImages(np.concatenate(images)), np.concatenate(labels)
