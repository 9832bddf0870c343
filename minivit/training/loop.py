"""The training loop: epochs, evaluation, log, checkpoints, and resuming."""

import csv
import dataclasses
import json
import math
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .. import devices, weights
from ..api import ViT
from ..arrays import Array, array_module, device_of, to_host
from ..data import Dataset
from ..data.dataset import fingerprint
from ..optim import SGD, AdamW, clip_by_global_norm
from ..tree import pack
from .batches import check_augmentation, count_batches, iterate_batches, prefetch, upload_batches
from .ema import EMA
from .evaluate import Score, evaluate
from .log import LOG, read_log, write_log
from .progress import CHECKPOINT, Progress, read_progress
from .recipe import OPTIMISERS, Recipe
from .schedules import schedule_learning_rate
from .step import StepOptions, batch_gradients, check_has_head

STEP_BAR_DELAY = 3  # seconds after which an epoch shows a progress bar of its steps
LOSS_INTERVAL = 50  # steps between two copies of the loss to the host; a copy waits for the GPU


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """The objects of a training run."""

    model: ViT
    dataset: Dataset
    recipe: Recipe
    options: StepOptions
    folder: Path
    optimiser: AdamW | SGD
    ema: EMA | None
    uploader: "devices.Uploader | None"  # for a model on a GPU

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


class ResumeError(ValueError):
    """The folder contains no run that can be resumed."""


def train(
    model: ViT, dataset: Dataset, recipe: Recipe, folder: str | Path, *, threads: int | None = None
) -> Score:
    """Train a model from its current parameters and write `model.npz` and `log.csv`.

    The same model, data, recipe and number of shards give the same bits. Each epoch ends with a
    checkpoint, from which `resume` continues.

    Parameters
    ----------
    model : ViT
        Trained in place.
    dataset : Dataset
        Images that fit the model, see `data.resize_dataset`.
    recipe : Recipe
    folder : str or Path
        Created if necessary.
    threads : int, optional
        Number of CPU threads. By default all cores.

    Returns
    -------
    Score
        Held-out loss and accuracy after the last epoch.

    Raises
    ------
    ValueError
        If the model has no classifier, or the recipe does not fit the images.
    FloatingPointError
        If the loss becomes NaN or infinite.
    OSError
        If the folder cannot be written.

    Examples
    --------
    >>> dataset = minivit.data.load_digits(n=64)
    >>> config = minivit.ViTConfig(
    ...     image_size=8, patch_size=2, channels=1, classes=10, width=16, depth=1, heads=2,
    ...     mlp_width=32
    ... )
    >>> score = train(ViT.create(config), dataset, Recipe(epochs=1), folder)
    >>> (folder / "model.npz").exists(), 0 <= score.accuracy <= 1
    (True, True)
    """
    check_has_head(model)
    check_augmentation(dataset, recipe)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.shards is None:
        part = math.ceil(min(recipe.batch_size, len(dataset.images)) / recipe.grad_accumulation)
        recipe = dataclasses.replace(recipe, shards=model.choose_shard_count(part, threads))
    run = _prepare_run(model, dataset, recipe, folder, threads)
    _save_checkpoint(run, epoch=0)
    return _train_epochs(run, 0, [])


def resume(
    folder: str | Path, model: ViT, dataset: Dataset, *, threads: int | None = None
) -> Score:
    """Continue an interrupted run. The result has the same bits as without interruption.

    `model` has been loaded from the checkpoint in the folder. Raises ResumeError if the run is
    complete, ValueError if the data set differs in its name, classes, files or labels,
    FileNotFoundError if there is no checkpoint.
    """
    folder = Path(folder)
    path = folder / CHECKPOINT
    state = weights.load_training(path)
    progress = read_progress(folder)
    if progress is None:
        raise ResumeError(f"the training run of {path} is complete: there is nothing to resume")
    run = _prepare_run(model, dataset, progress.recipe, folder, threads)
    run.optimiser.t = progress.t
    for name, vector in run.state.items():
        if name not in state or state[name].shape != vector.shape:
            raise weights.CheckpointError(f"{path}: training vector '{name}' is missing or invalid")
        if not np.isfinite(state[name]).all():
            raise weights.CheckpointError(f"{path}: training vector '{name}' is not finite")
        vector[:] = array_module(vector).asarray(state[name])
    if progress.data not in (None, dataset.name):
        raise ValueError(f"{path} was trained on the {progress.data}, not on the {dataset.name}")
    if progress.fingerprint not in (None, fingerprint(dataset)):
        others = f"other files or labels than the {dataset.name} have now"
        raise ValueError(f"{path} was trained on {others}")
    log = read_log(folder / LOG) if progress.epoch else []
    rows = [row for row in log if row["epoch"] <= progress.epoch]
    return _train_epochs(run, progress.epoch, rows)


def _prepare_run(
    model: ViT, dataset: Dataset, recipe: Recipe, folder: Path, threads: int | None
) -> TrainingRun:
    parameters = pack({"head": model.params["head"]} if recipe.freeze else model.params)
    optimiser = OPTIMISERS[recipe.optimiser](parameters, recipe.weight_decay)
    ema = EMA(parameters, recipe.ema) if recipe.ema else None
    uploader = devices.create_uploader() if model.device == "gpu" else None
    options = recipe.step_options(threads)
    return TrainingRun(model, dataset, recipe, options, folder, optimiser, ema, uploader)


def _train_epochs(run: TrainingRun, done: int, rows: list[dict[str, Any]]) -> Score:
    started = time.perf_counter() - (rows[-1]["seconds"] if rows else 0)
    score, epochs = None, run.recipe.epochs
    write_log(run.folder / LOG, rows)
    with (
        open(run.folder / LOG, "a", newline="") as file,
        tqdm(total=epochs, initial=done, unit="epoch", disable=None) as bar,
    ):
        log = csv.writer(file)
        for epoch in range(done + 1, epochs + 1):
            loss, learning_rate = _train_epoch(run, epoch)
            score = evaluate(run.result, run.dataset.held_out_images, run.dataset.held_out_labels)
            _check_finite(score.loss, "held-out loss", epoch, run.recipe)
            seconds = round(time.perf_counter() - started, 3)
            log.writerow([epoch, run.optimiser.t, learning_rate, loss, *score, seconds])
            file.flush()
            os.fsync(file.fileno())  # the log must not be older than the checkpoint
            _save_checkpoint(run, epoch)
            line = f"loss {loss:.4f}, held-out loss {score.loss:.4f}, accuracy {score.accuracy:.2%}"
            bar.set_postfix_str(line, refresh=False)
            bar.update()
            if bar.disable:  # not a terminal: print plain lines
                print(f"epoch {epoch}/{epochs}: {line}, {seconds:.0f} s", file=sys.stderr)
    if run.ema is not None:
        run.optimiser.parameters.vector[:] = run.ema.parameters.vector
    assert score is not None  # `done` is less than `epochs`
    return score


def _train_epoch(run: TrainingRun, epoch: int) -> tuple[float, float]:
    """Train for one epoch. Return the mean loss and the last learning rate."""
    recipe, steps = run.recipe, count_batches(run.dataset, run.recipe)
    warmup = round(recipe.warmup * steps)
    batches = iterate_batches(run.dataset, recipe, epoch)
    if run.uploader is not None:
        batches = upload_batches(batches, len(run.dataset.classes), run.uploader)
    if run.uploader is not None or run.options.shards != 1:  # one shard uses all BLAS threads
        batches = prefetch(batches)
    total, n, learning_rate, unread = 0.0, 0, 0.0, []
    with (
        closing(batches),
        tqdm(total=steps, unit="step", leave=False, delay=STEP_BAR_DELAY, disable=None) as bar,
    ):
        for images, labels in batches:
            t = run.optimiser.t
            learning_rate = schedule_learning_rate(
                t, recipe.epochs * steps, recipe.learning_rate, warmup, recipe.schedule
            )
            seed = recipe.seed, t
            loss, gradients = batch_gradients(run.model, images, labels, run.options, seed=seed)
            unread.append((loss, len(images)))
            if device_of(loss) == "cpu" or len(unread) == LOSS_INTERVAL:
                total += _read_losses(unread, epoch, recipe)
            _update(run, gradients.vector, learning_rate)
            n += len(images)
            bar.update()
    total += _read_losses(unread, epoch, recipe)
    if n == 0:
        raise ValueError(f"none of the {len(run.dataset.images)} training images could be read")
    return total / n, learning_rate


def _read_losses(unread: list[tuple[float | Array, int]], epoch: int, recipe: Recipe) -> float:
    """Return the sum of loss times batch size, and clear the list. This waits for a GPU."""
    total = 0.0
    for loss, size in unread:
        value = float(to_host(loss))
        _check_finite(value, "loss", epoch, recipe)
        total += value * size
    unread.clear()
    return total


def _update(run: TrainingRun, gradient: Array, learning_rate: float) -> None:
    """Clip the gradient, then update the weights and their moving average."""
    optimiser, threads = run.optimiser, run.options.threads
    if run.recipe.grad_clip:
        clip_by_global_norm(gradient, run.recipe.grad_clip)
    optimiser.update(gradient, learning_rate, threads)
    if run.ema is not None:
        run.ema.update(optimiser.parameters.vector, optimiser.t, threads)


def _check_finite(loss: float, name: str, epoch: int, recipe: Recipe) -> None:
    if not math.isfinite(loss):
        reason = f"the learning rate of {recipe.learning_rate} may be too high"
        raise FloatingPointError(f"the {name} is {loss} in epoch {epoch}: {reason}")


def _save_checkpoint(run: TrainingRun, epoch: int) -> None:
    training = {}
    if epoch < run.recipe.epochs:
        d = run.dataset
        progress = Progress(epoch, run.optimiser.t, run.recipe, d.name, d.source, fingerprint(d))
        fields = progress._asdict() | {"recipe": run.recipe.to_dict()}
        training = {"progress": np.array(json.dumps(fields)), **run.state}
    weights.save(run.folder / CHECKPOINT, run.model.config, run.result.params, training)
