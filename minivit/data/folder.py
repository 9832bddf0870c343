"""A folder of images by class, read from disk batch by batch."""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np

from ..arrays import Array
from ..files import FileError, is_system_error
from ..parallel import count_threads
from ..terminal import escape, print_message
from .dataset import Dataset
from .images import MAX_PIXELS, available_formats, read_image
from .preprocessing import HALF, Size, get_preprocessing

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
HELD_OUT_FOLDERS = ("val", "valid", "validation", "test")  # the first existing one is used
HELD_OUT_FRACTION = 0.1  # of each class, if the folder has no held-out part

Files = dict[str, list[str]]  # the image files of each class, both sorted


class FolderImages:
    """Images (n, H, W, C), float32 in [-1, 1], that are read from files when they are indexed.

    A preprocessing family determines the resizing and the crop, but not the normalisation, which
    `resize_dataset` applies. An unreadable file, or one with more than `max_pixels` pixels, is
    reported once on stderr, added to `unreadable` and not opened again.

    threads: number of files decoded in parallel (None: one per core). Pillow releases the GIL.
    """

    def __init__(
        self,
        files: Sequence[str],
        image_size: Size,
        channels: int,
        preprocessing: str = "cropped",
        threads: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.files = np.array(files, dtype=object)  # (n,)
        self.shape = (len(files), *image_size, channels)
        family = get_preprocessing(preprocessing, image_size)
        self.preprocessing = dataclasses.replace(family, mean=HALF, std=HALF)
        self.threads, self.max_pixels = count_threads(threads), max_pixels
        self.unreadable: set[str] = set()
        available_formats()  # before threads start, which could miss some of Pillow's formats

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: int | slice | Array) -> Array:
        """Read images. Raises ValueError for an unreadable one; `take` skips it instead."""
        if isinstance(indices, (int, np.integer)):
            return self[[indices]][0]
        images, readable = self.read(indices)
        if not readable.all():
            raise FileError(f"{self.files[indices][~readable][0]} cannot be read as an image")
        return images

    def read(self, indices: slice | Array) -> tuple[Array, Array]:
        """Return the readable images among those selected, and a mask over the selection.

        Raises ValueError if all files of the folder are unreadable.
        """
        files = self.files[indices]
        images = np.empty((len(files), *self.shape[1:]), dtype=np.float32)
        with ThreadPoolExecutor(self.threads) as pool:
            errors = list(pool.map(self._read_into, images, files))
        for file, error in zip(files, errors, strict=True):
            if error and file not in self.unreadable:
                self.unreadable.add(file)
                print_message(f"skipped: {error}")
        if len(self.unreadable) == len(self):
            first, last = self.files[[0, -1]]
            raise FileError(f"none of the images from {first} to {last} can be read")
        readable = np.array([not error for error in errors], dtype=bool)
        return images if readable.all() else images[readable], readable

    def _read_into(self, image: Array, file: str) -> str:
        """Read a file into an image (H, W, C). Return an error message, or ""."""
        if file in self.unreadable:
            return "already reported"
        H, W, C = image.shape
        try:
            image[:] = read_image(file, (H, W), C, self.preprocessing, self.max_pixels)
        except (OSError, ValueError) as error:
            if is_system_error(error):
                raise
            return str(error)
        return ""


def load_folder(
    path: str | Path,
    image_size: Size,
    channels: int = 3,
    *,
    preprocessing: str = "cropped",
    seed: int = 0,
    threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Dataset:
    """Load a folder of images by class. Images are read when they are used.

    The layout is path/CLASS/IMAGE, or path/train/CLASS/IMAGE and path/val/CLASS/IMAGE. Instead of
    val, the held-out part may be called valid, validation or test. Without one, a tenth of each
    class is held out. Class folders may have subfolders. Hidden files and files without the suffix
    of an image are ignored, and unreadable images are skipped. Both parts are `FolderImages`.

    Parameters
    ----------
    path : str or Path
    image_size : (int, int)
        Height and width to which the images are resized and cropped.
    channels : int, optional
        1 for grey or 3 for RGB.
    preprocessing : str, optional
        Name of a family, see `get_preprocessing`.
    seed : int, optional
        Seed of the choice of held-out images.
    threads : int, optional
        Number of files decoded in parallel. By default, one per core.
    max_pixels : int, optional
        Files with more pixels are skipped.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If the path is not a folder.
    ValueError
        If the folder has another layout or fewer than two classes.

    Examples
    --------
    >>> minivit.data.load_folder("pets", (64, 64)).classes  # doctest: +SKIP
    ('cat', 'dog')
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no folder {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, not a folder of images by class")
    if channels not in (1, 3):
        raise ValueError(f"{path}: images have 1 or 3 channels, not {channels}")
    training, held_out = find_splits(path, seed)
    names = list(training)
    if len(names) == 1:
        raise ValueError(f"{path} has only one class, '{names[0]}': provide at least two")

    def make_part(files: Files) -> tuple[FolderImages, Array]:
        labels = np.array([names.index(name) for name in files], dtype=np.int64)
        paths = list(chain.from_iterable(files.values()))
        images = FolderImages(paths, image_size, channels, preprocessing, threads, max_pixels)
        return images, np.repeat(labels, [len(paths) for paths in files.values()])

    classes = tuple(map(escape, names))
    name = f"images in {path.resolve().name}"
    return Dataset(name, *make_part(training), *make_part(held_out), classes)


def describe_unreadable(dataset: Dataset) -> str:
    """Return "3 of 1,200 images could not be read", or "" if no unreadable image is known."""
    parts = (dataset.images, dataset.held_out_images)
    unreadable = sum(len(getattr(images, "unreadable", ())) for images in parts)
    n = sum(len(images) for images in parts)
    return f"{unreadable:,} of {n:,} images could not be read" if unreadable else ""


def find_splits(path: Path, seed: int) -> tuple[Files, Files]:
    """Return the training files and the held-out files, split by the folders or by the seed."""
    parts = {name.lower(): path / name for name in list_folders(path)}
    if "train" not in parts or not list_folders(parts["train"]):  # "train" may be a class
        return split_classes(list_class_files(path), path, seed)
    held_out_path = next((parts[name] for name in HELD_OUT_FOLDERS if name in parts), None)
    if held_out_path is None:
        raise ValueError(
            f"{path} has no held-out images: place them in {path / HELD_OUT_FOLDERS[0]}, or pass "
            f"{parts['train']} to hold out a tenth of it"
        )
    training, held_out = list_class_files(parts["train"]), list_class_files(held_out_path)
    for name in held_out:
        if name not in training:
            raise ValueError(f"{held_out_path / name}: {parts['train']} has no class of this name")
    return training, held_out


def list_class_files(path: Path) -> Files:
    """Return the image files of each class. Raises ValueError for no classes and an empty class."""
    files = {name: list_images(path / name) for name in list_folders(path)}
    if not files:
        raise ValueError(f"{path} has no classes: place the images of each class in a subfolder")
    for name, images in files.items():
        if not images:
            raise ValueError(f"{path / name} has no images, but is the folder of a class")
    return files


def split_classes(files: Files, path: Path, seed: int) -> tuple[Files, Files]:
    """Hold out a tenth of each class, at least one image, except the only image of a class.

    The split of a class does not depend on the number of images of the others. Raises ValueError
    if every class has only one image.
    """
    training, held_out = {}, {}
    for c, (name, images) in enumerate(files.items()):
        n = len(images)
        order = np.random.default_rng([seed, c]).permutation(n)
        count = min(n - 1, max(1, round(n * HELD_OUT_FRACTION)))
        held_out[name] = [images[i] for i in sorted(order[:count])]
        training[name] = [images[i] for i in sorted(order[count:])]
    if not any(held_out.values()):
        raise ValueError(f"{path} has one image of each class: none can be held out")
    return training, held_out


def list_folders(path: Path) -> list[str]:
    """Return the names of the subfolders, sorted by code point, without hidden ones."""
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def list_images(path: Path | str) -> list[str]:
    """Return the paths of files with the suffix of an image, in a folder and its subfolders.

    Each folder is sorted by code point. Links to files are listed, even broken ones, which are then
    unreadable. Links to folders are not followed.
    """
    files = []
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                files += list_images(entry.path)
            elif entry.name.lower().endswith(SUFFIXES) and (entry.is_symlink() or entry.is_file()):
                files.append(entry.path)
    return files
