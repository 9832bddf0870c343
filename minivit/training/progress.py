"""The progress of a training run, as stored in its checkpoint."""

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
    """The progress of a training run.

    epoch, t: epochs and steps completed. data, source, fingerprint: the name, the source and the
    fingerprint of the data set, or None if unknown. batches, images, loss: number of completed
    batches of the current epoch, number of images in them, and sum of the losses of these images.
    correct: number of them that are classified correctly. seconds: the training time. blas_threads:
    number of BLAS threads, or None if the result does not depend on it. test_loss, test_accuracy:
    of the held-out images, if the run is complete. A complete run has neither a time nor BLAS
    threads, so that its checkpoint does not depend on the machine.
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
    correct: int = 0
    test_loss: float | None = None
    test_accuracy: float | None = None

    @property
    def complete(self) -> bool:
        """Whether the run is complete."""
        return self.epoch == self.recipe.epochs


def read_progress(folder: str | Path) -> Progress | None:
    """Read the progress of the run in a folder, without loading arrays.

    Returns None if the folder has no checkpoint, or that of a complete run of version 0.1.0. Raises
    `weights.CheckpointError` if the checkpoint is damaged.
    """
    path = Path(folder) / CHECKPOINT
    fields = weights.read_progress(path) if path.is_file() else None
    if fields is None:
        return None
    try:
        without_validation: dict[str, Any] = {"validation": 0.0}  # version 0.1.0
        recipe = Recipe(**without_validation | rename_fields(fields.pop("recipe")))
        progress = Progress(recipe=recipe, **fields)
        if not (0 <= progress.epoch <= recipe.epochs and progress.t >= 0):
            raise ValueError(f"epoch {progress.epoch} of {recipe.epochs}")
        counts = progress.epoch, progress.t, progress.batches, progress.images, progress.correct
        numbers = *counts, progress.loss, progress.seconds
        if progress.complete:
            numbers += progress.test_loss, progress.test_accuracy
        if not all(isinstance(n, int) for n in counts):
            raise ValueError(f"{counts} must be integers")
        if not all(isinstance(x, (int, float)) and 0 <= x < math.inf for x in numbers):
            raise ValueError(f"{numbers} must be finite and not negative")
        return progress
    except (AttributeError, KeyError, TypeError, ValueError) as reason:
        raise weights.CheckpointError(f"{path}: invalid training progress: {reason!r}") from None


def rename_fields(fields: dict[str, Any], renamed: dict[str, str] | None = None) -> dict[str, Any]:
    """Replace the names of version 0.1.0 by the current ones. `renamed` contains further names."""
    names = RENAMED_FIELDS | (renamed or {})
    return {names.get(name, name): value for name, value in fields.items()}
