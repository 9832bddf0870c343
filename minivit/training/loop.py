"""The training loop: epochs, held-out score, log, checkpoint, and going on where it stopped."""

import csv
import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from .. import weights
from ..arrays import Array
from ..data import Dataset, shift
from ..shards import cut
from .evaluate import Score, evaluate
from .optimisers import SGD, AdamW, clip_by_global_norm
from .schedules import DECAYS, learning_rate
from .step import must_classify, packed_gradients

if TYPE_CHECKING:
    from ..model import ViT

OPTIMISERS = {"adamw": AdamW, "sgd": SGD}
SHUFFLE = 2**31  # in the place of a shard's number, so that no shard draws the same numbers
COLUMNS = ["epoch", "step", "rate", "loss", "held_out_loss", "held_out_accuracy", "seconds"]
COUNTS = ("epoch", "step")  # whole numbers


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train. The defaults suit the handwritten digits.

    batch: images a step; an epoch is cut into nearly equal batches of at most this size.
    rate: the learning rate's peak; warmup: the epochs until it is reached; decay: what follows.
    weight_decay: decoupled, kernels only; clip: the largest global norm of the gradient, 0 for
    none; smoothing: of the labels; shift: by how many pixels images are moved about at random.
    shards: pieces of a batch (None: as the cache and the cores suggest, then kept on resuming).
    freeze: train the head alone.
    """

    epochs: int = 50
    batch: int = 128
    optimiser: str = "adamw"
    rate: float = 2e-3
    warmup: float = 5
    decay: str = "cosine"
    weight_decay: float = 0.1
    clip: float = 1.0
    smoothing: float = 0.1
    shift: int = 1
    seed: int = 0
    shards: int | None = None
    freeze: bool = False

    def __post_init__(self) -> None:
        for name, low in {"epochs": 1, "batch": 1, "shift": 0, "seed": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        for name in ("rate", "warmup", "weight_decay", "clip", "smoothing"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a number from 0 up, not {getattr(self, name)}")
        if self.smoothing >= 1:
            raise ValueError(f"smoothing is a share below 1, not {self.smoothing}")
        if self.shards is not None and self.shards < 1:
            raise ValueError(f"shards must be at least 1, not {self.shards}")
        for name, choices in {"optimiser": OPTIMISERS, "decay": DECAYS}.items():
            if getattr(self, name) not in choices:
                known = ", ".join(choices)
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose {known}")


class Unfinished(ValueError):
    """The folder holds a training that was interrupted, or none to go on with."""


def train(
    model: "ViT", data: Dataset, recipe: Recipe, folder: str | Path, *, threads: int | None = None
) -> Score:
    """Train a model from its present parameters; leaves `model.npz` and `log.csv` in the folder.

    The same model, data and recipe (and shards) give the same bits. Each epoch ends with a whole
    checkpoint, from which `resume` goes on if the training is interrupted. Raises ValueError for
    a model without a classifier, FloatingPointError if the loss stops being a number, OSError if
    the folder cannot be written.
    """
    must_classify(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.shards is None:
        shards = model.shard_count(min(recipe.batch, len(data.images)), threads)
        recipe = dataclasses.replace(recipe, shards=shards)
    optimiser = _optimiser(model, recipe)
    _save(folder, model, optimiser, recipe, data, epoch=0)
    return _epochs(model, data, recipe, folder, optimiser, 0, [], threads)


def resume(
    folder: str | Path, model: "ViT", data: Dataset, *, threads: int | None = None
) -> Score:
    """Go on with the training that was interrupted in this folder, to the same bits in the end.

    `model` is the one loaded from the folder's checkpoint. Raises Unfinished if it is complete.
    """
    folder = Path(folder)
    path = folder / "model.npz"
    state = weights.load_training(path)
    if not state:
        raise Unfinished(f"{path} is fully trained: there is nothing to go on with")
    try:
        progress = json.loads(str(state["progress"]))
        recipe, epoch = Recipe(**progress["recipe"]), progress["epoch"]
        optimiser = _optimiser(model, recipe)
        optimiser.t = progress["t"]
        for name, vector in optimiser.state.items():
            if state[name].shape != vector.shape or not np.isfinite(state[name]).all():
                raise ValueError(f"'{name}' does not fit, or has entries that are NaN")
            vector[:] = state[name]
    except (KeyError, TypeError, ValueError) as reason:
        message = f"{path}: its 'training' part cannot be used: {reason!r}"
        raise weights.CheckpointError(message) from None
    if progress.get("data", data.name) != data.name:
        raise ValueError(f"{path} was training on the {progress['data']}, not on the {data.name}")
    rows = [row for row in read_log(folder / "log.csv") if row["epoch"] <= epoch]
    return _epochs(model, data, recipe, folder, optimiser, epoch, rows, threads)


def is_unfinished(folder: str | Path) -> bool:
    """Whether the folder's checkpoint is of a training that was interrupted."""
    path = Path(folder) / "model.npz"
    return path.is_file() and bool(weights.load_training(path))


def epochs_done(folder: str | Path) -> int:
    """How many epochs the interrupted training in this folder has behind it."""
    state = weights.load_training(Path(folder) / "model.npz")
    return json.loads(str(state["progress"]))["epoch"]


def read_log(path: str | Path) -> list[dict[str, float]]:
    """The rows of a `log.csv`, one for each epoch. Raises ValueError if it is something else."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        kinds = {name: int if name in COUNTS else float for name in COLUMNS}
        return [{name: kind(row[name]) for name, kind in kinds.items()} for row in rows]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is no log of a training") from None


def _optimiser(model: "ViT", recipe: Recipe) -> AdamW | SGD:
    """The optimiser of what is to be trained: the whole model, or its head."""
    trained = {"head": model.params["head"]} if recipe.freeze else model.params
    return OPTIMISERS[recipe.optimiser](trained, recipe.weight_decay)


def _epochs(
    model: "ViT",
    data: Dataset,
    recipe: Recipe,
    folder: Path,
    optimiser: AdamW | SGD,
    done: int,
    rows: list[dict[str, Any]],
    threads: int | None,
) -> Score:
    started = time.perf_counter() - (rows[-1]["seconds"] if rows else 0)
    score = None
    with (
        open(folder / "log.csv", "w", newline="") as file,
        tqdm(total=recipe.epochs, initial=done, unit="epoch", disable=None) as bar,
    ):
        log = csv.DictWriter(file, COLUMNS)
        log.writeheader()
        log.writerows(rows)
        file.flush()  # they were on the disk before: a kill must not take them away
        for epoch in range(done + 1, recipe.epochs + 1):
            loss, rate = _one_epoch(model, data, recipe, optimiser, epoch, threads)
            score = evaluate(model, data.held_out_images, data.held_out_labels)
            _must_be_finite(score.loss, "held-out loss", epoch, recipe)
            seconds = round(time.perf_counter() - started, 3)
            row = dict(zip(COLUMNS, [epoch, optimiser.t, rate, loss, *score, seconds], strict=True))
            log.writerow(row)
            file.flush()
            _save(folder, model, optimiser, recipe, data, epoch)
            line = f"loss {loss:.4f}, held out {score.loss:.4f}, accuracy {score.accuracy:.2%}"
            bar.set_postfix_str(line, refresh=False)
            bar.update()
            if bar.disable:  # no terminal: plain lines
                print(f"epoch {epoch}/{recipe.epochs}: {line}, {seconds:.0f} s", file=sys.stderr)
    return score


def _one_epoch(
    model: "ViT",
    data: Dataset,
    recipe: Recipe,
    optimiser: AdamW | SGD,
    epoch: int,
    threads: int | None,
) -> tuple[float, float]:
    """All training images once, in a new order; returns their mean loss and the last rate."""
    n = len(data.images)
    generator = np.random.default_rng([recipe.seed, epoch, SHUFFLE])
    order = generator.permutation(n)
    batches = cut(n, math.ceil(n / recipe.batch))
    total = 0.0
    for batch in batches:
        chosen = order[batch]
        images = data.images[chosen]
        if recipe.shift:
            images = shift(images, recipe.shift, generator)
        step = optimiser.t
        rate = learning_rate(
            step,
            steps=recipe.epochs * len(batches),
            peak=recipe.rate,
            warmup=round(recipe.warmup * len(batches)),
            decay=recipe.decay,
        )
        loss, _, gradient = packed_gradients(
            model,
            images,
            data.labels[chosen],
            smoothing=recipe.smoothing,
            seed=(recipe.seed, step),
            shards=min(recipe.shards, len(chosen)),
            threads=threads,
            freeze=recipe.freeze,
        )
        _must_be_finite(loss, "loss", epoch, recipe)
        if recipe.clip:
            clip_by_global_norm(gradient, recipe.clip)
        optimiser.update(gradient, rate, threads)
        total += loss * len(chosen)
    return total / n, rate


def _must_be_finite(loss: float, which: str, epoch: int, recipe: Recipe) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the {which} is {loss} in epoch {epoch}: the rate of {recipe.rate} may be too high"
        )


def _save(
    folder: Path,
    model: "ViT",
    optimiser: AdamW | SGD,
    recipe: Recipe,
    data: Dataset,
    epoch: int,
) -> None:
    training: dict[str, Array] = {}
    if epoch < recipe.epochs:
        progress = {"epoch": epoch, "t": optimiser.t, "recipe": dataclasses.asdict(recipe)}
        progress["data"] = data.name
        training = {"progress": np.array(json.dumps(progress)), **optimiser.state}
    weights.save(folder / "model.npz", model.config, model.params, training)
