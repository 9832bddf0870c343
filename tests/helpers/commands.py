"""Functions that run commands in this process, and small inputs for them."""

import contextlib
import io
import os
import re
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from matplotlib.figure import Figure

from helpers.models import tiny_model
from minivit import analysis, data, training
from minivit.cli import main
from minivit.cli import train as train_command

TINY = ["--depth", 1, "--width", 8, "--heads", 2, "--mlp-width", 8]
QUICK = [*TINY, "--epochs", 1, "--batch-size", 100, "--warmup", 0]
OUTPUTS = ["attention.png", "curves.png", "log.csv", "model.npz", "steps.csv"]


# Output is buffered, as by default: a write error then appears at the end of the process.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


class Run(NamedTuple):
    """The result of a command."""

    status: int
    out: str
    err: str


def run(*arguments):
    """Run the command line with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # from argparse
            status = end.code
    return Run(status, out.getvalue(), err.getvalue())


def output_of(*arguments):
    """Return the output of a command that must succeed without messages."""
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    return out


def error_of(*arguments, status=1):
    """Return the error of a command, which must fail with a single line."""
    result = run(*arguments)
    assert result.status == status
    assert "Traceback" not in result.out + result.err
    lines = [line for line in result.err.splitlines() if not line.startswith("skipped: ")]
    (match,) = [re.fullmatch(r"minivit( [a-z]+)?: error: (.+)", line) for line in lines]
    assert match[1] in (None, *(f" {command}" for command in arguments[:1]))
    return match[2]


def names_in(folder):
    """Return the sorted names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


def save_model(path, **fields):
    """Save a tiny model with perturbed parameters, and return it."""
    model = tiny_model("float32", **{"patch_size": 2, "depth": 2} | fields)
    model.save(path)
    return model


@pytest.fixture
def quick(monkeypatch):
    """Replace the baseline and the figures, which take longer than a small training."""
    monkeypatch.setattr(training, "fit_logistic_regression", lambda dataset: 0.97)
    for name in ("plot_curves", "plot_held_out"):
        monkeypatch.setattr(analysis, name, lambda *args, **options: Figure(figsize=(0.1, 0.1)))


@pytest.fixture
def calls(monkeypatch):
    """Replace the training by a function that appends its arguments to this list."""
    calls = []

    def train(model, dataset, recipe, out, threads):
        calls.append(SimpleNamespace(**locals()))

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(train_command, "report", lambda *args, **kwargs: None)
    return calls


def use_few_scattered(monkeypatch, held_out=20):
    """Replace the data set of scattered digits by a few of them, and return it."""
    dataset = data.load_scattered(n=10, held_out=held_out)
    monkeypatch.setitem(data.DATASETS, "scattered", lambda n=1: dataset)
    return dataset
