"""The training loop: epochs, held-out score, log, checkpoint, and going on where it stopped."""

import csv
import dataclasses
import io
import json
import math
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from .. import weights
from ..api import ViT
from ..arrays import Array, array_module, device_of, to_host
from ..data import Dataset
from ..data.dataset import fingerprint
from ..devices import create_uploader
from ..optim import SGD, AdamW, clip_by_global_norm
from ..parallel import batch_slices
from ..weights.files import write_atomically
from .batches import check_augmentation, count_batches, iterate_batches, prefetch, upload_batches
from .ema import EMA
from .evaluate import Score, evaluate
from .recipe import OPTIMISERS, Recipe
from .schedules import schedule_learning_rate
from .step import check_has_head, packed_gradients

if TYPE_CHECKING:
    from ..cuda.transfer import Uploader

COLUMNS = ["epoch", "step", "rate", "loss", "held_out_loss", "held_out_accuracy", "seconds"]
COUNTS = ("epoch", "step")  # whole numbers
LONG = 3  # seconds: an epoch that takes longer shows its steps
READ = 50  # steps of a GPU between two looks at the loss, for each look waits for it


class TrainingRun(NamedTuple):
    """What a training works with."""

    model: ViT
    data: Dataset
    recipe: Recipe
    folder: Path
    optimiser: AdamW | SGD
    average: EMA | None
    threads: int | None
    send: "Uploader | None"  # of a model on a GPU

    @property
    def result(self) -> ViT:
        """The model that is scored and saved: of the averaged weights, if there is an average."""
        if self.average is None:
            return self.model
        return type(self.model)(self.model.config, self.model.params | self.average.params)

    @property
    def vectors(self) -> dict[str, Array]:
        """What the training goes on from, beside the parameters of the result."""
        if self.average is None:
            return self.optimiser.state
        return self.optimiser.state | {"running": self.optimiser.vector}


class ResumeError(ValueError):
    """The folder holds a training that was interrupted, or none to go on with."""


def train(
    model: ViT, data: Dataset, recipe: Recipe, folder: str | Path, *, threads: int | None = None
) -> Score:
    """Train a model from its present parameters; leaves `model.npz` and `log.csv` in the folder.

    The same model, data and recipe (and shards) give the same bits. Each epoch ends with a whole
    checkpoint, from which `resume` goes on if the training is interrupted. Raises ValueError for
    a model without a classifier, or a recipe that does not suit the images, FloatingPointError if
    the loss stops being a number, OSError if the folder cannot be written.
    """
    check_has_head(model)
    check_augmentation(data, recipe)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.shards is None:
        piece = math.ceil(min(recipe.batch_size, len(data.images)) / recipe.grad_accumulation)
        recipe = dataclasses.replace(recipe, shards=model.shard_count(piece, threads))
    run = _begin(model, data, recipe, folder, threads)
    _save(run, epoch=0)
    return _epochs(run, 0, [])


def resume(folder: str | Path, model: ViT, data: Dataset, *, threads: int | None = None) -> Score:
    """Go on with the training that was interrupted in this folder, to the same bits in the end.

    `model` is the one loaded from the folder's checkpoint. Raises Unfinished if it is complete,
    ValueError if the data are not those it began with, as far as names and labels tell.
    """
    folder = Path(folder)
    path = folder / "model.npz"
    state = weights.load_training(path)
    if not state:
        raise ResumeError(f"{path} is fully trained: there is nothing to go on with")
    try:
        progress = json.loads(str(state["progress"]))
        recipe, epoch = Recipe(**progress["recipe"]), progress["epoch"]
        run = _begin(model, data, recipe, folder, threads)
        run.optimiser.t = progress["t"]
        for name, vector in run.vectors.items():
            if state[name].shape != vector.shape or not np.isfinite(state[name]).all():
                raise ValueError(f"'{name}' does not fit, or has entries that are NaN")
            vector[:] = array_module(vector).asarray(state[name])
    except (KeyError, TypeError, ValueError) as reason:
        message = f"{path}: its 'training' part cannot be used: {reason!r}"
        raise weights.CheckpointError(message) from None
    if progress.get("data", data.name) != data.name:
        raise ValueError(f"{path} was training on the {progress['data']}, not on the {data.name}")
    if progress.get("fingerprint", fingerprint(data)) != fingerprint(data):
        raise ValueError(f"{path} began with other files or labels than the {data.name} have now")
    log = read_log(folder / "log.csv") if epoch else []  # killed before it had one
    rows = [row for row in log if row["epoch"] <= epoch]
    return _epochs(run, epoch, rows)


def read_log(path: str | Path) -> list[dict[str, float]]:
    """The rows of a `log.csv`, one for each epoch. Raises ValueError if it is something else."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        kinds = {name: int if name in COUNTS else float for name in COLUMNS}
        return [{name: kind(row[name]) for name, kind in kinds.items()} for row in rows]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is no log of a training") from None


def write_log(path: Path, rows: list[dict[str, Any]]) -> None:
    """A `log.csv` with these rows, whole at any moment: a power cut must not take them away."""
    text = io.StringIO(newline="")
    log = csv.DictWriter(text, COLUMNS)
    log.writeheader()
    log.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def _begin(
    model: ViT, data: Dataset, recipe: Recipe, folder: Path, threads: int | None
) -> TrainingRun:
    """The optimiser and the average of what is to be trained: the whole model, or its head."""
    trained = {"head": model.params["head"]} if recipe.freeze else model.params
    optimiser = OPTIMISERS[recipe.optimiser](trained, recipe.weight_decay)
    average = EMA(trained, recipe.ema) if recipe.ema else None
    send = create_uploader() if model.device == "gpu" else None
    return TrainingRun(model, data, recipe, folder, optimiser, average, threads, send)


def _epochs(run: TrainingRun, done: int, rows: list[dict[str, Any]]) -> Score:
    started = time.perf_counter() - (rows[-1]["seconds"] if rows else 0)
    score, epochs = None, run.recipe.epochs
    path = run.folder / "log.csv"
    write_log(path, rows)
    with (
        open(path, "a", newline="") as file,
        tqdm(total=epochs, initial=done, unit="epoch", disable=None) as bar,
    ):
        log = csv.DictWriter(file, COLUMNS)
        for epoch in range(done + 1, epochs + 1):
            loss, rate = _one_epoch(run, epoch)
            score = evaluate(run.result, run.data.held_out_images, run.data.held_out_labels)
            _must_be_finite(score.loss, "held-out loss", epoch, run.recipe)
            seconds = round(time.perf_counter() - started, 3)
            values = [epoch, run.optimiser.t, rate, loss, *score, seconds]
            log.writerow(dict(zip(COLUMNS, values, strict=True)))
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint that is newer
            _save(run, epoch)
            line = f"loss {loss:.4f}, held out {score.loss:.4f}, accuracy {score.accuracy:.2%}"
            bar.set_postfix_str(line, refresh=False)
            bar.update()
            if bar.disable:  # no terminal: plain lines
                print(f"epoch {epoch}/{epochs}: {line}, {seconds:.0f} s", file=sys.stderr)
    if run.average is not None:
        run.optimiser.vector[:] = run.average.vector  # the caller's model is the result
    return score


def _one_epoch(run: TrainingRun, epoch: int) -> tuple[float, float]:
    """All training images once, in a new order; returns their mean loss and the last rate."""
    recipe, steps = run.recipe, count_batches(run.data, run.recipe)
    made = iterate_batches(run.data, recipe, epoch)
    if run.model.device == "gpu":
        made = prefetch(upload_batches(made, run.model.config.classes, run.send))
    elif recipe.shards > 1:  # a single one leaves BLAS its threads
        made = prefetch(made)
    total, n, rate, unread = 0.0, 0, 0.0, []
    with (
        closing(made),
        tqdm(total=steps, unit="step", leave=False, delay=LONG, disable=None) as bar,
    ):
        for images, labels in made:
            rate = schedule_learning_rate(
                run.optimiser.t,
                steps=recipe.epochs * steps,
                peak=recipe.learning_rate,
                warmup=round(recipe.warmup * steps),
                schedule=recipe.schedule,
            )
            loss, gradient = _loss_and_gradient(run, images, labels)
            unread.append((loss, len(images)))
            if device_of(loss) == "cpu" or len(unread) == READ:
                total += _read(unread, epoch, recipe)
            _move(run, gradient, rate)
            n += len(images)
            bar.update()
    total += _read(unread, epoch, recipe)
    if n == 0:
        raise ValueError(f"none of the {len(run.data.images)} training images could be read")
    return total / n, rate


def _read(unread: list[tuple[float | Array, int]], epoch: int, recipe: Recipe) -> float:
    """The sum of mean losses times images, the list being emptied; of a GPU it waits for them."""
    total = 0.0
    while unread:
        loss, images = unread.pop(0)
        loss = float(to_host(loss))
        _must_be_finite(loss, "loss", epoch, recipe)
        total += loss * images
    return total


def _loss_and_gradient(
    run: TrainingRun, images: Array, labels: Array
) -> tuple[float | Array, Array]:
    """The mean loss of a batch and its gradient: sums over pieces, one done after the other."""
    recipe, B = run.recipe, len(images)
    loss, gradient = 0.0, None
    for i, piece in enumerate(batch_slices(B, min(recipe.grad_accumulation, B))):
        its_loss, _, its_gradient = packed_gradients(
            run.model,
            images[piece],
            labels[piece],
            label_smoothing=recipe.label_smoothing,
            seed=(recipe.seed, recipe.grad_accumulation * run.optimiser.t + i),
            shards=recipe.shards,
            threads=run.threads,
            freeze=recipe.freeze,
            whole=B,
        )
        loss += its_loss
        gradient = its_gradient if gradient is None else gradient + its_gradient
    return loss, gradient


def _move(run: TrainingRun, gradient: Array, rate: float) -> None:
    """One update of the weights, by the gradient as the recipe clips it, and of their average."""
    optimiser, average = run.optimiser, run.average
    if run.recipe.grad_clip:
        clip_by_global_norm(gradient, run.recipe.grad_clip)
    optimiser.update(gradient, rate, run.threads)
    if average is not None:
        average.update(optimiser.vector, optimiser.t, run.threads)


def _must_be_finite(loss: float, which: str, epoch: int, recipe: Recipe) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the {which} is {loss} in epoch {epoch}: the rate of {recipe.learning_rate} may be too high"
        )


def _save(run: TrainingRun, epoch: int) -> None:
    recipe, training = run.recipe, {}
    if epoch < recipe.epochs:
        progress = {"epoch": epoch, "t": run.optimiser.t, "recipe": dataclasses.asdict(recipe)}
        progress |= {"data": run.data.name, "source": run.data.source}
        progress["fingerprint"] = fingerprint(run.data)
        training = {"progress": np.array(json.dumps(progress)), **run.vectors}
    weights.save(run.folder / "model.npz", run.model.config, run.result.params, training)
