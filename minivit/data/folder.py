"""A folder of images by class, read from the disk batch by batch."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..arrays import Array
from ..parallel import cpu_count
from .dataset import Dataset
from .images import SYSTEM_ERRORS, read_image
from .preprocessing import HALF, get_preprocessing

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
HELD_OUT = ("val", "valid", "validation", "test")  # beside "train"; the first that is there
ONE_IN = 10  # images of a class that is held out, where the folder holds out none

Files = dict[str, list[str]]  # the image files of each class, both in order


class FolderImages:
    """Image files as (n, H, W, C), float32 in [-1, 1], each read when it is asked for.

    A picture is resized and cropped as `preprocessing` says; colours other than from -1 to 1 are
    left to `resize_dataset`. Only the names of the files are held. Those that cannot be read are named on
    stderr, once, and are not tried again; `describe_unreadable` is the set of them.

    threads: how many files are read at a time (None: one for each core); Pillow releases Python's
    lock while it decodes.
    """

    def __init__(
        self,
        files: Sequence[str],
        image_size: tuple[int, int],
        channels: int,
        preprocessing: str = "cropped",
        threads: int | None = None,
    ) -> None:
        self.files = np.array(files, dtype=object)  # (n,), to be indexed by arrays
        self.shape = (len(files), *image_size, channels)
        family = get_preprocessing(preprocessing, image_size)
        self.preprocessing = dataclasses.replace(family, mean=HALF, std=HALF)
        self.threads = threads or cpu_count()
        self.unreadable: set[str] = set()
        Image.init()  # Pillow learns its formats here: threads that did would miss some

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, chosen: int | slice | Array) -> Array:
        """These images, all of them. Raises ValueError if one cannot be read; `read_arrays` skips it."""
        if isinstance(chosen, (int, np.integer)):
            return self[[chosen]][0]
        images, good = self.read(chosen)
        if not good.all():
            raise ValueError(f"{self.files[chosen][~good][0]} cannot be read as an image")
        return images

    def read(self, chosen: slice | Array) -> tuple[Array, Array]:
        """Those of the images that can be read, and which they are: a mask over `resolve_device`.

        Raises ValueError once it is known that none of all the files can be read.
        """
        files = self.files[chosen]
        images = np.empty((len(files), *self.shape[1:]), dtype=np.float32)
        with ThreadPoolExecutor(self.threads) as pool:
            reasons = list(pool.map(self._read_into, images, files))
        for file, reason in zip(files, reasons, strict=True):
            if reason and file not in self.unreadable:
                self.unreadable.add(file)
                tqdm.write(f"skipped: {reason}", file=sys.stderr)  # above a bar, if there is one
        if len(self.unreadable) == len(self):
            first, last = self.files[[0, -1]]
            raise ValueError(f"none of the images can be read, from {first} to {last}")
        good = np.array([not reason for reason in reasons], dtype=bool)
        return images if good.all() else images[good], good

    def _read_into(self, image: Array, file: str) -> str:
        """Fill the image (H, W, C) from its file; returns why that cannot be done, or ""."""
        if file in self.unreadable:
            return "it could not be read before"
        H, W, C = image.shape
        try:
            image[:] = read_image(file, (H, W), C, self.preprocessing)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) in SYSTEM_ERRORS:
                raise
            return str(error)
        return ""


def load_folder(
    path: str | Path,
    image_size: tuple[int, int],
    channels: int = 3,
    *,
    preprocessing: str = "cropped",
    seed: int = 0,
    threads: int | None = None,
) -> Dataset:
    """The data set of path/CLASS/IMAGE, or of path/train/CLASS/IMAGE and path/val/CLASS/IMAGE.

    The folder of a class may have folders within. Instead of val, the held-out part may be called
    valid, validation or test. Without the two parts a tenth of each class, drawn with the seed, is
    held out. The classes are the folders' names, in order; hidden files and those that are no
    images by their names do not count. Both parts are `FolderImages`, whose pictures are brought
    to the size by the rules of a family of `get_preprocessing`. Raises FileNotFoundError,
    NotADirectoryError, or ValueError, for a folder that is not laid out so.
    """
    path = Path(path)
    check_folder(path)
    if channels not in (1, 3):
        raise ValueError(f"{path}: pictures have 1 or 3 channels, not {channels}")
    training, held_out = find_splits(path, seed)
    names = list(training)

    def images_and_labels(files: Files) -> tuple[FolderImages, Array]:
        every = list(chain.from_iterable(files.values()))
        labels = [names.index(name) for name in files]
        counts = [len(some) for some in files.values()]
        images = FolderImages(every, image_size, channels, preprocessing, threads)
        return images, np.repeat(np.array(labels, dtype=np.int64), counts)

    classes = tuple(name.encode(errors="backslashreplace").decode() for name in names)  # text
    name = f"images in {path.resolve().name}"
    return Dataset(name, *images_and_labels(training), *images_and_labels(held_out), classes)


def describe_unreadable(dataset: Dataset) -> str:
    """ "3 of 1,200 images could not be read", of both parts so far; "" if all could be."""
    parts = (dataset.images, dataset.held_out_images)
    bad = sum(len(getattr(images, "unreadable", ())) for images in parts)
    n = sum(len(images) for images in parts)
    return f"{bad:,} of {n:,} images could not be read" if bad else ""


def check_folder(path: Path) -> None:
    """Raise FileNotFoundError or NotADirectoryError if it is none."""
    if not path.exists():
        raise FileNotFoundError(f"there is no folder {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: a folder of images by class is wanted")


def find_splits(path: Path, seed: int) -> tuple[Files, Files]:
    """The files to train on and those held out: as the folder parts them, or else the seed.

    Raises ValueError if nothing is held out, a class has no images, or there is only one class.
    """
    parts = {name.lower(): path / name for name in list_folders(path)}
    if "train" not in parts or not list_folders(parts["train"]):  # "train" may be a class, too
        files = list_class_files(path)
        check_several_classes(files, path)
        return split_classes(files, path, seed)
    first = next((parts[name] for name in HELD_OUT if name in parts), None)
    if first is None:
        raise ValueError(
            f"{path} has images to train on, but none held out: those lie in {path / HELD_OUT[0]}, "
            f"or give {parts['train']}, and a tenth of it will be"
        )
    training, held_out = list_class_files(parts["train"]), list_class_files(first)
    check_several_classes(training, parts["train"])
    for name in held_out:
        if name not in training:
            raise ValueError(f"{first / name}: {parts['train']} has no class of this name")
    return training, held_out


def list_class_files(path: Path) -> Files:
    """The image files in each folder that lies in this one. Raises ValueError if there are none."""
    files = {name: list_images(path / name) for name in list_folders(path)}
    if not files:
        raise ValueError(f"{path} has no classes: the images of each lie in a folder of its own")
    for name, some in files.items():
        if not some:
            raise ValueError(f"{path / name} has no images, but is the folder of a class")
    return files


def check_several_classes(files: Files, path: Path) -> None:
    """Raise ValueError if there is but one class."""
    if len(files) == 1:
        (name,) = files
        raise ValueError(f"{path} has only one class, '{name}': there is nothing to tell apart")


def split_classes(files: Files, path: Path, seed: int) -> tuple[Files, Files]:
    """A tenth of each class, one image at least, goes to the second part, the last one never.

    A class is drawn from as before when others grow. Raises ValueError if nothing is held out.
    """
    training, held_out = {}, {}
    for c, (name, some) in enumerate(files.items()):
        n = len(some)
        order = np.random.default_rng([seed, c]).permutation(n)
        count = min(n - 1, max(1, round(n / ONE_IN)))
        held_out[name] = [some[i] for i in sorted(order[:count])]
        training[name] = [some[i] for i in sorted(order[count:])]
    if not any(held_out.values()):
        raise ValueError(f"{path} has one image of each class: none can be held out")
    return training, held_out


def list_folders(path: Path) -> list[str]:
    """The names of the folders in this one, in the order of their letters' codes."""
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def list_images(path: Path | str) -> list[str]:
    """The paths of the files that are images by their names, in this folder and those within.

    A folder's names in the order of their letters' codes. A link to a file counts wherever it
    leads: if to nothing, then reading it will tell. One to a folder is not followed.
    """
    found = []
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                found += list_images(entry.path)
            elif entry.name.lower().endswith(SUFFIXES) and (entry.is_symlink() or entry.is_file()):
                found.append(entry.path)
    return found
