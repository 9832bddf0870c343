"""The progress of an interrupted training run, as stored in its checkpoint."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from .. import weights
from ..weights import CHECKPOINT
from .recipe import Recipe

RENAMED_FIELDS = {  # version 0.1.0 -> the current names
    "batch": "batch_size", "rate": "learning_rate", "decay": "schedule", "clip": "grad_clip",
    "smoothing": "label_smoothing", "average": "ema", "accumulate": "grad_accumulation",
    "magnitude": "randaugment_magnitude", "erase": "random_erasing",
}  # fmt: skip


class Progress(NamedTuple):
    """The progress of an interrupted training run.

    epoch, t: epochs and steps completed. data, source, fingerprint: the name, the source and the
    fingerprint of the data set, or None if unknown. batches, images, loss: number of completed
    batches of the current epoch, number of images in them, and sum of the losses of these images.
    seconds: the training time. blas_threads: number of BLAS threads, or None if the result does not
    depend on it.
    """

    epoch: int
    t: int
    recipe: Recipe
    data: str | None = None
    source: str | None = None
    fingerprint: int | None = None
    batches: int = 0
    images: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    blas_threads: int | None = None


def read_progress(folder: str | Path) -> Progress | None:
    """Read the progress of the interrupted run in a folder, without loading arrays.

    Returns None if the folder has no checkpoint or the run is complete. Raises
    `weights.CheckpointError` if the checkpoint is damaged.
    """
    path = Path(folder) / CHECKPOINT
    fields = weights.read_progress(path) if path.is_file() else None
    if fields is None:
        return None
    try:
        recipe = Recipe(**rename_fields(fields.pop("recipe")))
        progress = Progress(recipe=recipe, **fields)
        if not (0 <= progress.epoch < recipe.epochs and progress.t >= 0):
            raise ValueError(f"epoch {progress.epoch} of {recipe.epochs}")
        counts = progress.epoch, progress.t, progress.batches, progress.images
        numbers = *counts, progress.loss, progress.seconds
        if not all(isinstance(n, int) for n in counts):
            raise ValueError(f"{counts} must be integers")
        if not all(isinstance(x, (int, float)) and 0 <= x < math.inf for x in numbers):
            raise ValueError(f"{numbers} must be finite and not negative")
        return progress
    except (AttributeError, KeyError, TypeError, ValueError) as reason:
        raise weights.CheckpointError(f"{path}: invalid training progress: {reason!r}") from None


def rename_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Replace the names of version 0.1.0 by the current ones."""
    return {RENAMED_FIELDS.get(name, name): value for name, value in fields.items()}
