"""What a training that was interrupted has left in its folder."""

import json
from pathlib import Path

from .. import weights
from .recipe import Recipe


def is_unfinished(folder: str | Path) -> bool:
    """Whether the folder's checkpoint is of a training that was interrupted."""
    path = Path(folder) / "model.npz"
    return path.is_file() and bool(weights.load_training(path))


def begun_on(folder: str | Path) -> str | None:
    """The `source` of the data that the interrupted training in this folder has, if known."""
    path = Path(folder) / "model.npz"
    state = weights.load_training(path) if path.is_file() else {}
    try:
        return json.loads(str(state["progress"]))["source"]
    except (KeyError, TypeError, ValueError):  # it is complete, or its data have none
        return None


def begun_with(folder: str | Path) -> Recipe:
    """The recipe of the interrupted training in this folder."""
    state = weights.load_training(Path(folder) / "model.npz")
    return Recipe(**json.loads(str(state["progress"]))["recipe"])


def epochs_done(folder: str | Path) -> int:
    """How many epochs the interrupted training in this folder has behind it."""
    state = weights.load_training(Path(folder) / "model.npz")
    return json.loads(str(state["progress"]))["epoch"]
