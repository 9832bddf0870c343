"""Trainings that are killed or interrupted at random times and resumed, in processes of their own.

A resumed run has the files of an uninterrupted one, with the same bytes, and no other files.
"""

import contextlib
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers.commands import TINY, names_in, save_model
from helpers.trainings import log_without_seconds
from PIL import Image

from minivit.training import read_progress
from minivit.training.lock import LOCK

pytestmark = pytest.mark.slow

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
KILLS, INTERRUPTS = 6, 3  # runs, and signals that end a process, at least, per configuration
MAX_SIGNALS = 2  # in a row, for one run
TIMEOUT = 60  # seconds, after which a process is regarded as hanging
IMAGES = "some images"  # a folder; the space requires quotes in a command
SETTINGS = {
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "2",
    "OMP_NUM_THREADS": "2",
    "MPLBACKEND": "agg",
}

RECIPE = ["--epochs", 4, "--batch-size", 30, "--warmup", 1, "--lr", 0.01]
TRAIN = [*TINY, *RECIPE]
TUNE = ["--from", "origin.npz", *RECIPE]
CONFIGURATIONS = {
    "AdamW": [*TRAIN, "--seed", 1],
    "SGD": [*TRAIN, "--seed", 2, "--optimiser", "sgd", "--schedule", "linear"],
    "EMA": [*TRAIN, "--seed", 3, "--ema", 0.95],
    "frozen": [*TUNE, "--seed", 4, "--freeze"],
    "accumulation": [*TRAIN, "--seed", 5, "--grad-accumulation", 2],
    "mixed": [*TRAIN, "--seed", 6, "--mixup", 0.2, "--cutmix", 1],
    "augmented": [*TRAIN, "--seed", 7, "--randaugment", 2, "--random-erasing", 0.3, "--flip"],
    "dropout": [*TRAIN, "--seed", 8, "--depth", 2, "--dropout", 0.1, "--drop-path", 0.2],
    "three shards": [*TRAIN, "--seed", 9, "--shards", 3],
    "folder": [
        *TRAIN, "--seed", 10, "--shards", 1, "--data", IMAGES, "--epochs", 20, "--batch-size", 6,
        "--image-size", 8, "--patch-size", 2,
    ],
}  # fmt: skip


class Reference(NamedTuple):
    """An uninterrupted run: its options, its folder, and the duration of its process."""

    options: list
    folder: Path
    seconds: float


class Result(NamedTuple):
    """How a process ended, and whether it held the lock of its folder when it got a signal."""

    status: int
    err: str
    locked: bool


# --- processes -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def default_signals():
    """Do not ignore SIGTERM and SIGHUP, because processes inherit this. SIGINT: see conftest.py."""
    previous = {n: signal.signal(n, signal.SIG_DFL) for n in SIGNALS if n != signal.SIGINT}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


def start(words):
    """Start a command in the working directory."""
    command = [sys.executable, "-m", "minivit", *map(str, words)]
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, env=os.environ | SETTINGS, **pipes)


def complete(words):
    """Run a command that must succeed, and return its output."""
    with start(words) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out


def send_after(words, number, delay, folder):
    """Start a command and send it a signal after a delay in seconds, unless it has ended."""
    locked = False
    with start(words) as process:
        try:
            try:
                _, err = process.communicate(timeout=delay)
            except subprocess.TimeoutExpired:
                stop(process)
                locked = holds_lock(process, folder)
                process.send_signal(number)
                process.send_signal(signal.SIGCONT)
                _, err = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
    return Result(process.returncode, err, locked)


def stop(process):
    """Stop a process until it gets SIGCONT, so that its state can be examined."""
    process.send_signal(signal.SIGSTOP)
    with contextlib.suppress(ChildProcessError):  # it has ended and `send_signal` has noticed
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def holds_lock(process, folder):
    """Return whether the lock in a folder is that of the process."""
    lock = folder / LOCK
    return lock.exists() and lock.read_text().startswith(f"{process.pid} ")


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture(params=CONFIGURATIONS)
def reference(request, tmp_path, monkeypatch):
    """Train without interruption in a new working directory."""
    monkeypatch.chdir(tmp_path)
    save_model(Path("origin.npz"), classes=7)
    save_images(Path(IMAGES))
    options, folder = CONFIGURATIONS[request.param], Path("reference")
    started = time.perf_counter()
    complete(["train", *options, "--out", folder])
    seconds = time.perf_counter() - started
    for path in folder.glob("*.png"):
        Image.open(path).load()  # raises OSError for an incomplete file
    return Reference(options, folder, seconds)


def save_images(folder):
    """Save 60 small images of three classes, one of which cannot be read."""
    rng = np.random.default_rng(0)
    for c, name in enumerate(("first class", "second class", "third class")):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(80 * c, 80 * c + 90, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    (folder / "second class" / "7.png").write_bytes(b"not an image")


def next_command(folder, options):
    """Return the command that starts or continues the run in a folder."""
    if not (folder / "model.npz").exists():
        return ["train", *options, "--out", folder]
    command = ["train", "--resume", "--out", folder]
    if "--data" in options and read_progress(folder).complete:  # only the figures are missing
        command += ["--data", options[options.index("--data") + 1]]
    return command


def send_signals(numbers, folder, reference, generator):
    """Start a run, resume it after each of the signals, and complete it.

    The signals come at times that are distributed uniformly over the duration of the reference.
    Returns the number of processes that they ended; the others were faster.
    """
    command, stops = next_command(folder, reference.options), 0
    for number in numbers:
        before = read_files(folder, reference)
        delay = generator.uniform(0, reference.seconds)
        result = send_after(command, number, delay, folder)
        command = next_command(folder, reference.options)
        if number == signal.SIGKILL:
            assert result.status in (0, -number), result.err
        elif result.locked:
            command = check_interrupt(result, number, folder, reference) or command
        else:  # before the lock was acquired, or after all files were written
            assert result.status in (0, -number, 128 + number, 1), result.err  # 1: in an import
            assert "Interrupted" not in result.err  # a traceback of minivit's exception
            assert is_complete(folder, reference) or read_files(folder, reference) == before
        stops += result.status != 0
        if result.status == 0:
            break
    complete(command)
    return stops


def check_interrupt(result, number, folder, reference):
    """Check the messages and files after an interrupt, and return the command to continue the run.

    Returns None if there is no checkpoint yet, or if nothing is missing.
    """
    assert result.status == 128 + number, result.err
    assert "Traceback" not in result.err
    names = set(names_in(folder)) if folder.exists() else set()
    assert names <= set(names_in(reference.folder))  # no temporary file and no lock
    last_line = result.err.splitlines()[-1]
    if "model.npz" not in names or is_complete(folder, reference):
        assert last_line.startswith("interrupted")
        return None
    path = re.escape(str(folder / "model.npz"))
    pattern = rf"interrupted: {path} contains .+\. Continue with `python -m minivit (.+)`"
    match = re.fullmatch(pattern, last_line)
    assert match, result.err
    command = shlex.split(match[1])
    assert command[:2] == ["train", "--resume"]
    return command


def read_files(folder, reference):
    """Return the times and the bytes of the files of a run, without temporary files."""
    paths = [folder / name for name in names_in(reference.folder)]
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in paths if p.exists()}


def is_complete(folder, reference):
    """Return whether a run has the figures of the reference, which are written last."""
    found, expected = read_files(folder, reference), read_files(reference.folder, reference)
    names = [name for name in expected if name.endswith(".png")]
    return all(name in found and found[name][1] == expected[name][1] for name in names)


def check_equal(folder, reference):
    """Check that a run has the files of the reference, with the same bytes except for the seconds.

    Another `--resume` succeeds and does not write any file.
    """
    assert names_in(folder) == names_in(reference.folder)
    assert log_without_seconds(folder) == log_without_seconds(reference.folder)
    for name in set(names_in(folder)) - {"log.csv", "steps.csv"}:
        assert (folder / name).read_bytes() == (reference.folder / name).read_bytes(), name
    before = read_files(folder, reference)
    out = complete(["train", "--resume", "--out", folder])
    assert out == f"{folder}/model.npz is fully trained, and all files of the run are complete\n"
    assert read_files(folder, reference) == before
    assert names_in(folder) == names_in(reference.folder)


# --- tests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "count"),
    [([signal.SIGKILL], KILLS), (SIGNALS, INTERRUPTS)],
    ids=["kill", "interrupt"],
)
def test_a_stopped_and_resumed_run_has_the_files_of_an_uninterrupted_one(reference, numbers, count):
    generator = random.Random(f"{numbers} {reference.options}")
    runs = stops = 0
    while min(runs, stops) < count:
        folder = Path(f"run {runs}")
        chosen = generator.choices(numbers, k=generator.randint(1, MAX_SIGNALS))
        stops += send_signals(chosen, folder, reference, generator)
        check_equal(folder, reference)
        runs += 1
