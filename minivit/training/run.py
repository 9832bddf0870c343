"""The state of a training run, and its checkpoints."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import devices, weights
from ..api import ViT
from ..arrays import Array, array_module
from ..data import Dataset
from ..data.dataset import fingerprint, split_validation
from ..optim import SGD, AdamW
from ..parallel import cpu_count
from ..terminal import print_message
from ..tree import pack
from ..weights import CHECKPOINT
from .ema import EMA
from .evaluate import Score
from .log import (
    STEP_COLUMNS,
    STEP_LOG,
    restore_log,
    restore_steps,
    rows_to_table,
    write_log,
)
from .presets import PRESETS
from .progress import Progress
from .recipe import OPTIMISERS, Recipe
from .signals import SignalHandler
from .step import StepOptions

Labelled = Sequence[Any]  # images (n, H, W, C) and labels (n,)


class ResumeError(ValueError):
    """The folder contains no run that can be resumed."""


@dataclasses.dataclass
class TrainingRun:
    """The objects of a training run, and the epochs and batches that it has completed."""

    model: ViT
    dataset: Dataset  # without the validation images
    validation: Labelled | None
    fingerprint: int  # of the whole data set
    recipe: Recipe
    options: StepOptions
    folder: Path
    optimiser: AdamW | SGD
    ema: EMA | None
    uploader: "devices.Uploader | None"  # for a model on a GPU
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # of the log
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # rows of the step log
    epoch: int = 0  # number of completed epochs
    batches: int = 0  # of the current epoch
    images: int = 0  # in these batches
    loss: float = 0.0  # sum over these images
    correct: int = 0  # number of them
    test: Score | None = None  # of a complete run
    started: float = dataclasses.field(default_factory=time.perf_counter)
    signals: SignalHandler = dataclasses.field(default_factory=SignalHandler)

    @property
    def result(self) -> ViT:
        """The model that is evaluated and saved, with the averaged weights if there is an EMA."""
        if self.ema is None:
            return self.model
        return type(self.model)(self.model.config, self.model.params | self.ema.parameters.tree)

    @property
    def state(self) -> dict[str, Array]:
        """The vectors in a checkpoint besides the parameters of the result."""
        running = {"running": self.optimiser.parameters.vector} if self.ema else {}
        return self.optimiser.state | running

    @property
    def seconds(self) -> float:
        """The duration of the training, without interruptions."""
        return round(time.perf_counter() - self.started, 3)

    @property
    def blas_threads(self) -> int | None:
        """The number of BLAS threads, if the last bits of the result depend on it."""
        if self.recipe.shards != 1 or self.model.device == "gpu":
            return None
        return 1 if self.options.threads == 1 else cpu_count()


def create_run(
    model: ViT, dataset: Dataset, recipe: Recipe, folder: Path, threads: int | None
) -> TrainingRun:
    """Create a run that has not completed any step."""
    parameters = pack({"head": model.params["head"]} if recipe.freeze else model.params)
    optimiser = OPTIMISERS[recipe.optimiser](parameters, recipe.weight_decay)
    ema = EMA(parameters, recipe.ema) if recipe.ema else None
    uploader = devices.create_uploader() if model.device == "gpu" else None
    options, validation, checksum = recipe.step_options(threads), None, fingerprint(dataset)
    if recipe.validation:
        dataset, images, labels = split_validation(dataset, recipe.validation)
        validation = (images, labels) if len(labels) else None
    return TrainingRun(
        model, dataset, validation, checksum, recipe, options, folder, optimiser, ema, uploader
    )


def save_checkpoint(run: TrainingRun) -> None:
    """Write a checkpoint. Complete runs with bitwise equal results give identical files."""
    complete, d = run.test is not None, run.dataset
    source = d.source if not complete or d.source in PRESETS else None  # publish no local path
    progress = Progress(
        run.epoch, run.optimiser.t, run.recipe, d.name, source, run.fingerprint, run.batches,
        run.images, run.loss, run.seconds, run.blas_threads, run.correct,
    )  # fmt: skip
    state = run.state
    if run.test is not None:
        test = {"test_loss": run.test.loss, "test_accuracy": run.test.accuracy}
        progress, state = progress._replace(seconds=0.0, blas_threads=None, **test), {}
    write_log(run.folder / STEP_LOG, run.steps, STEP_COLUMNS)
    fields = progress._asdict() | {"recipe": run.recipe.to_dict()}
    log = rows_to_table(run.rows, seconds=not complete)
    training = {"log": log, "progress": np.array(json.dumps(fields)), **state}
    weights.save(run.folder / CHECKPOINT, run.model.config, run.result.params, training)


def restore_run(run: TrainingRun, progress: Progress) -> None:
    """Restore the state of an interrupted run from its checkpoint.

    Raises ValueError if the data set differs from that of the run, CheckpointError if the
    checkpoint is damaged.
    """
    path, d = run.folder / CHECKPOINT, run.dataset
    if progress.data not in (None, d.name):
        raise ValueError(f"{path} was trained on the {progress.data}, not on the {d.name}")
    if progress.fingerprint not in (None, run.fingerprint):
        raise ValueError(
            f"{path}: the files or labels of the {d.name} have changed since the run started"
        )
    state = weights.load_training(path)
    for name, vector in run.state.items():
        if name not in state or state[name].shape != vector.shape:
            raise weights.CheckpointError(f"{path}: training vector '{name}' is missing or invalid")
        if state[name].dtype.kind != "f" or not np.isfinite(state[name]).all():
            raise weights.CheckpointError(f"{path}: training vector '{name}' is not finite")
        vector[:] = array_module(vector).asarray(state[name])
    run.optimiser.t, run.epoch = progress.t, progress.epoch
    run.batches, run.images, run.loss = progress.batches, progress.images, progress.loss
    run.correct, run.steps = progress.correct, restore_steps(run.folder, progress.t)
    run.rows = restore_log(run.folder, state.get("log"), progress.epoch)
    seconds = progress.seconds or (run.rows[-1]["seconds"] if run.rows else 0)
    run.started = time.perf_counter() - seconds
    if progress.blas_threads not in (None, run.blas_threads):
        print_message(
            f"note: with one shard, the last bits of the result depend on the number of BLAS "
            f"threads, which was {progress.blas_threads} and is now {run.blas_threads}"
        )
