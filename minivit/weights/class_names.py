"""The names of a model's classes, from a file next to its weights or, for ImageNet, bundled."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..data.images import read_labels
from ..terminal import escape, print_message

CLASS_NAMES = "classes.txt"  # next to model.npz: one name per line
CONFIG = "config.json"  # of Hugging Face, next to model.safetensors
IMAGENET_CLASSES = 1000


def find_class_names(path: Path, classes: int | None) -> tuple[str, ...] | None:
    """Return the names of the classes of the model in a file, or None if unknown.

    The names are those in the file classes.txt that `minivit train` writes, in `id2label` of
    Hugging Face's config.json or, for a model with 1,000 classes, of ImageNet. A file with a wrong
    number of names is not used, and a warning is printed.
    """
    try:
        file = path.with_name(CLASS_NAMES)
        if path.name == "model.npz" and file.is_file() and classes:
            return tuple(read_labels(file, classes))
        if path.suffix != ".npz" and (names := read_id2label(path.with_name(CONFIG), classes)):
            return names
    except (OSError, ValueError) as error:
        print_message(f"warning: the class names are not used: {escape(str(error))}")
        return None
    if classes != IMAGENET_CLASSES:
        return None
    text = files("minivit.data").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read_id2label(path: Path, classes: int | None) -> tuple[str, ...] | None:
    """Return the names in a config.json. None if it has none, or only numbered placeholders.

    Raises ValueError if they are not one name per class.
    """
    if not classes or not path.is_file():
        return None
    try:
        labels = json.loads(path.read_text(encoding="utf-8")).get("id2label") or {}
        names: tuple[Any, ...] = tuple(labels.get(str(i)) for i in range(classes))
        if not labels or labels == placeholder_names(len(labels)):
            return None
        if len(labels) == classes and all(isinstance(name, str) for name in names):
            return names
    except (AttributeError, RecursionError, TypeError, ValueError):
        pass  # reported below
    raise ValueError(f"'id2label' in {path} is not one name for each of {classes} classes")


def placeholder_names(classes: int) -> dict[str, str]:
    """Return the value of `id2label` that Hugging Face stores for a model without class names."""
    return {str(i): f"LABEL_{i}" for i in range(classes)}
