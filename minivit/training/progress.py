"""The progress of an interrupted training, as stored in its checkpoint."""

from pathlib import Path
from typing import Any, NamedTuple

from .. import weights
from .recipe import Recipe

CHECKPOINT = "model.npz"
RENAMED_FIELDS = {  # version 0.1.0 -> the present names
    "batch": "batch_size",
    "rate": "learning_rate",
    "decay": "schedule",
    "clip": "grad_clip",
    "smoothing": "label_smoothing",
    "average": "ema",
    "accumulate": "grad_accumulation",
    "magnitude": "randaugment_magnitude",
    "erase": "random_erasing",
}


class Progress(NamedTuple):
    """What an interrupted training has done, and with which data.

    epoch, t: epochs and steps completed. data, source, fingerprint: the name, the origin and the
    fingerprint of the data set, or None if unknown.
    """

    epoch: int
    t: int
    recipe: Recipe
    data: str | None = None
    source: str | None = None
    fingerprint: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return self._asdict() | {"recipe": self.recipe.to_dict()}


def read_progress(folder: str | Path) -> Progress | None:
    """Read the progress of the interrupted training in a folder, without loading arrays.

    Returns None if the folder has no checkpoint or its training is complete. Raises
    `weights.CheckpointError` if the checkpoint or its progress is not valid.
    """
    path = Path(folder) / CHECKPOINT
    fields = weights.read_progress(path) if path.is_file() else None
    if fields is None:
        return None
    try:
        recipe: dict[str, Any] = {
            RENAMED_FIELDS.get(name) or name: v for name, v in fields.pop("recipe").items()
        }
        progress = Progress(recipe=Recipe(**recipe), **fields)
        if not (0 <= progress.epoch <= progress.recipe.epochs and progress.t >= 0):
            raise ValueError(f"epoch {progress.epoch} of {progress.recipe.epochs}")
        return progress
    except (AttributeError, KeyError, TypeError, ValueError) as reason:
        message = f"{path}: the training progress in it is not valid: {reason!r}"
        raise weights.CheckpointError(message) from None
