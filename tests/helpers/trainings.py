"""A short training with all random options, and functions that record or interrupt it."""

import dataclasses
from typing import NamedTuple

import numpy as np

from helpers.models import TINY, few_digits
from minivit import ViT, ViTConfig
from minivit.training import Recipe, StepOptions, loop, train

EPOCHS, STEPS = 4, 5  # epochs, and steps per epoch with `few_digits`
RECIPE = Recipe(
    epochs=EPOCHS, batch_size=20, learning_rate=0.01, warmup=1, weight_decay=0.05, seed=3, shards=3
)
ALL_OPTIONS = {
    "flip": True, "randaugment": 2, "randaugment_magnitude": 8.0, "random_erasing": 0.3,
    "mixup": 0.2, "cutmix": 1.0, "ema": 0.9, "grad_accumulation": 2,
}  # fmt: skip


def make_recipe(**fields):
    return dataclasses.replace(RECIPE, **fields)


def new_model():
    """Return an untrained model with dropout and drop path."""
    return ViT.create(ViTConfig(**TINY | {"depth": 2}, dropout=0.1, drop_path=0.2), seed=3)


def log_without_seconds(folder):
    """Return the lines of both logs without "seconds", the last column."""
    texts = [(folder / name).read_text() for name in ("log.csv", "steps.csv")]
    return [line.rpartition(",")[0] for text in texts for line in text.splitlines()]


class Step(NamedTuple):
    """The arguments and the results of one step."""

    images: np.ndarray
    labels: np.ndarray
    options: StepOptions
    seed: tuple[int, ...]
    loss: float
    correct: int


def record_steps(folder, monkeypatch, dataset=None, **fields):
    """Train a model and return the steps."""
    steps, batch_gradients = [], loop.batch_gradients

    def record_step(model, images, labels, options, *, seed):
        result = batch_gradients(model, images, labels, options, seed=seed)
        steps.append(Step(images, labels, options, seed, result.loss, result.correct))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(loop, "batch_gradients", record_step)
        train(new_model(), dataset or few_digits(), make_recipe(**fields), folder)
    return steps


def interrupt(monkeypatch, name, call):
    """Make a function of `training.loop` raise KeyboardInterrupt in its call number `call`."""
    function, calls = getattr(loop, name), []

    def count_call(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    monkeypatch.setattr(loop, name, count_call)
