"""Ctrl-C, SIGTERM and SIGHUP during training: a resumed run gives bitwise the same result."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading

import pytest
from helpers import commands
from helpers.commands import QUICK, run
from helpers.models import few_digits
from helpers.trainings import (
    ALL_OPTIONS,
    EPOCHS,
    STEPS,
    log_without_seconds,
    make_recipe,
    new_model,
)
from matplotlib.figure import Figure

from minivit import ViT, analysis
from minivit.cli import common
from minivit.training import Interrupted, loop, read_progress, resume, train
from minivit.training.signals import SIGNALS, SignalHandler, handle_signals, interruptible

quick = commands.quick  # a fixture
DIGITS = few_digits()
RECIPES = {"plain": {}, "all options": ALL_OPTIONS, "frozen": {"optimiser": "sgd", "freeze": True}}


@pytest.fixture(scope="module", params=RECIPES)
def complete(request, tmp_path_factory):
    """Return the recipe and the folder of an uninterrupted training."""
    folder, recipe = tmp_path_factory.mktemp("complete"), make_recipe(**RECIPES[request.param])
    train(new_model(), DIGITS, recipe, folder)
    return recipe, folder


def send(monkeypatch, name, call, number, then=lambda: None):
    """Send a signal to this process during call number `call` of a function of `training.loop`."""
    function, calls = getattr(loop, name), []

    def send_and_call(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
            then()
        return function(*args, **kwargs)

    monkeypatch.setattr(loop, name, send_and_call)


PLACES = {  # function, call, epochs and batches that are completed
    "in the first step": ("batch_gradients", 1, 0, 1),
    "in the middle of an epoch": ("batch_gradients", STEPS + 3, 1, 3),
    "during an update": ("_update", STEPS + 3, 1, 3),
    "in the last step of an epoch": ("batch_gradients", 2 * STEPS, 1, STEPS),
    "during evaluation": ("evaluate", 2, 1, STEPS),
    "while writing the log": ("write_log", 3, 2, 1),
    "while writing a checkpoint": ("save_checkpoint", 3, 2, 1),
}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("place", PLACES)
def test_a_resumed_run_is_bitwise_equal_to_an_uninterrupted_one(
    complete, tmp_path, monkeypatch, place, number
):
    recipe, folder = complete
    name, call, epoch, batches = PLACES[place]
    handlers = [signal.getsignal(n) for n in SIGNALS]
    with monkeypatch.context() as patch:
        send(patch, name, call, number)
        with pytest.raises(Interrupted) as interrupt:
            train(new_model(), DIGITS, recipe, tmp_path)
    assert interrupt.value.number == number
    assert [signal.getsignal(n) for n in SIGNALS] == handlers
    progress = read_progress(tmp_path)
    assert (progress.epoch, progress.batches, progress.t) == (
        epoch,
        batches,
        epoch * STEPS + batches,
    )
    path = tmp_path / "model.npz"
    resume(tmp_path, ViT.load(path), DIGITS)
    assert path.read_bytes() == (folder / "model.npz").read_bytes()
    assert log_without_seconds(tmp_path) == log_without_seconds(folder)


def test_a_run_can_be_interrupted_after_every_step(complete, tmp_path, monkeypatch):
    recipe, folder = complete
    path, interruptions = tmp_path / "model.npz", 0
    with monkeypatch.context() as patch:
        send(patch, "batch_gradients", 1, signal.SIGINT)
        with pytest.raises(Interrupted):
            train(new_model(), DIGITS, recipe, tmp_path)
    while not read_progress(tmp_path).complete:
        with monkeypatch.context() as patch:
            send(patch, "batch_gradients", 1, signal.SIGTERM)
            try:
                resume(tmp_path, ViT.load(path), DIGITS)
            except Interrupted:
                interruptions += 1
    assert interruptions >= EPOCHS * STEPS - 2
    assert path.read_bytes() == (folder / "model.npz").read_bytes()
    assert log_without_seconds(tmp_path) == log_without_seconds(folder)


def test_a_signal_during_the_last_checkpoint_is_raised_after_it_is_written(tmp_path, monkeypatch):
    send(monkeypatch, "save_checkpoint", 1 + 2, signal.SIGTERM)
    with pytest.raises(Interrupted):
        train(new_model(), DIGITS, make_recipe(epochs=2), tmp_path)
    assert read_progress(tmp_path).complete


def test_a_second_signal_stops_at_once_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    def again():
        os.kill(os.getpid(), signal.SIGINT)

    send(monkeypatch, "_update", STEPS + 2, signal.SIGINT, then=again)
    with pytest.raises(Interrupted):
        train(new_model(), DIGITS, make_recipe(), tmp_path)
    progress = read_progress(tmp_path)
    assert (progress.epoch, progress.batches) == (1, 0)


class Discarding:
    """An object whose destructor sends a signal. Python discards exceptions of destructors."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def replace_exception():
    """Send a signal, and replace the exception by another one, as some C code does."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException:
        raise ValueError("invalid matrix") from None


@pytest.mark.parametrize("function", [Discarding, replace_exception])
def test_a_signal_is_not_lost_if_its_exception_is_discarded_or_replaced(function, capfd):
    with pytest.raises(Interrupted) as interrupt, interruptible():
        function()
    assert interrupt.value.number == signal.SIGTERM
    assert capfd.readouterr() == ("", "")
    assert sys.unraisablehook is not None


def test_another_exception_is_raised_unchanged():
    with pytest.raises(ValueError, match="another"), interruptible():
        raise ValueError("another")


def test_ignored_signals_remain_ignored():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_signals(SignalHandler()):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_training_in_another_thread_does_not_handle_signals(tmp_path):
    scores = []

    def train_in_thread():
        scores.append(train(new_model(), DIGITS, make_recipe(epochs=1), tmp_path))

    thread = threading.Thread(target=train_in_thread)
    thread.start()
    thread.join()
    assert len(scores) == 1


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_the_command_to_resume_is_printed(tmp_path, monkeypatch, quick, number):
    monkeypatch.chdir(tmp_path)
    line = ["train", *QUICK, "--epochs", 3, "--seed", 5]
    assert run(*line, "--out", "complete").status == 0
    with monkeypatch.context() as patch:
        send(patch, "batch_gradients", 13 + 7, number)  # an epoch has 13 steps
        status, _, err = run(*line, "--out", "a run", "--threads", 2, "--max-pixels", 9999)
    assert status == 128 + number
    command = "python -m minivit train --resume --out 'a run' --threads 2 --max-pixels 9999"
    assert err.splitlines()[-1] == (
        "interrupted: a run/model.npz contains epoch 1 of 3 and 7 steps of the next epoch. "
        f"Continue with `{command}`"
    )
    assert run(*shlex.split(command)[3:]).status == 0
    models = [(tmp_path / name / "model.npz").read_bytes() for name in ("complete", "a run")]
    assert models[0] == models[1]


def test_an_interruption_while_a_resumed_run_is_loaded_prints_the_command(
    tmp_path, monkeypatch, quick
):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        send(patch, "batch_gradients", 7, signal.SIGINT)
        assert run("train", *QUICK, "--out", "run").status == 128 + signal.SIGINT

    def interrupt(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(common, "load_data", interrupt)
    status, _, err = run("train", "--resume", "--out", "run")
    assert status == 128 + signal.SIGTERM
    assert err.endswith("Continue with `python -m minivit train --resume --out run`\n")


def test_a_signal_while_a_figure_is_drawn_is_handled_after_the_figure(tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)

    def draw(*args):
        signal.raise_signal(signal.SIGTERM)
        return Figure(figsize=(0.1, 0.1))

    monkeypatch.setattr(analysis, "plot_curves", draw)
    status, _, err = run("train", *QUICK, "--out", "run")
    assert status == 128 + signal.SIGTERM
    assert "the trained model, but the figures are missing. Continue with" in err
    assert sorted(os.listdir("run")) == ["curves.png", "log.csv", "model.npz", "steps.csv"]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_ends_with_a_message_and_the_status_of_the_signal(tmp_path, number):
    line = [sys.executable, "-m", "minivit", "train", *map(str, QUICK), "--epochs", "1000000"]

    def restore_handlers():
        for n in SIGNALS:
            signal.signal(n, signal.SIG_DFL if n != signal.SIGINT else signal.default_int_handler)

    options = {"cwd": tmp_path, "text": True, "stderr": subprocess.PIPE}
    with subprocess.Popen(line, preexec_fn=restore_handlers, **options) as process:
        assert process.stderr.readline().startswith("epoch 1/1000000")
        process.send_signal(number)
        *_, last = process.stderr.read().splitlines()
    assert process.returncode == 128 + number
    assert re.fullmatch(
        r"interrupted: runs/digits/model\.npz contains epoch .* Continue with .*", last
    )
    assert sorted(os.listdir(tmp_path / "runs/digits")) == ["log.csv", "model.npz", "steps.csv"]
