"""Complete and interrupted trainings: the same bits, checkpoints, logs, and damaged files."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.models import few_digits, same_bits
from helpers.trainings import (
    ALL_OPTIONS,
    EPOCHS,
    STEPS,
    interrupt,
    log_without_seconds,
    make_recipe,
    new_model,
)

from minivit import ViT, data, flatten, weights
from minivit.training import (
    ResumeError,
    evaluate,
    read_log,
    read_progress,
    resume,
    schedule_learning_rate,
    train,
)
from minivit.training import run as run_module
from minivit.training.log import STEP_COLUMNS

DIGITS = few_digits()
FIXTURES = Path(__file__).parent / "fixtures"
RECIPES = {
    "adamw": {},
    "sgd": {"optimiser": "sgd"},
    "frozen": {"optimiser": "sgd", "freeze": True},
    "all options": ALL_OPTIONS,
}


@pytest.fixture(scope="module", params=RECIPES)
def complete(request, tmp_path_factory):
    """Return the recipe and the folder of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("complete")
    recipe = make_recipe(**RECIPES[request.param])
    train(new_model(), DIGITS, recipe, folder)
    return recipe, folder


def train_until(folder, monkeypatch, name, call, **fields):
    """Train a new model until a function of the loop is interrupted. Return the checkpoint."""
    with monkeypatch.context() as patch:
        interrupt(patch, name, call)
        with pytest.raises(KeyboardInterrupt):
            train(new_model(), DIGITS, make_recipe(**fields), folder)
    return folder / "model.npz"


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Return the checkpoint of a training that was interrupted in its third epoch."""
    return train_until(tmp_path, monkeypatch, "evaluate", 3)


# --- the same bits -------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(complete, tmp_path):
    recipe, folder = complete
    for threads in (1, 2, 3):
        train(new_model(), DIGITS, recipe, tmp_path, threads=threads)
        assert (tmp_path / "model.npz").read_bytes() == (folder / "model.npz").read_bytes()
        assert log_without_seconds(tmp_path) == log_without_seconds(folder)


def test_a_complete_training_writes_a_model_and_a_log(complete):
    _, folder = complete
    assert sorted(path.name for path in folder.iterdir()) == ["log.csv", "model.npz", "steps.csv"]
    progress = read_progress(folder)
    assert progress.complete
    rows = read_log(folder / "log.csv")
    state = weights.load_training(folder / "model.npz")
    assert state.keys() == {"log", "progress"}
    table = state["log"]  # without seconds
    assert np.array_equal(table[:, :-1], [list(row.values())[:-1] for row in rows])
    assert np.isnan(table[:, -1]).all()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows] == [STEPS, 2 * STEPS, 3 * STEPS, 4 * STEPS]
    assert [row["learning_rate"] for row in rows] == [
        schedule_learning_rate(STEPS * epoch - 1, 4 * STEPS, 0.01, warmup=STEPS)
        for epoch in (1, 2, 3, 4)
    ]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    score = evaluate(ViT.load(folder / "model.npz"), *DIGITS[3:5])
    assert (progress.test_loss, progress.test_accuracy) == score
    _, *validation = data.split_validation(DIGITS, 0.1)
    score = evaluate(ViT.load(folder / "model.npz"), *validation)
    assert (rows[-1]["validation_loss"], rows[-1]["validation_accuracy"]) == score


PLACES = {  # all in the third epoch
    "at the first step": ("batch_gradients", 2 * STEPS + 1),
    "at the third step": ("_update", 2 * STEPS + 3),
    "before the evaluation": ("evaluate", 3),
    "between log and checkpoint": ("save_checkpoint", 4),  # the first one precedes all epochs
}


@pytest.mark.parametrize("place", PLACES)
def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(
    complete, tmp_path, monkeypatch, place
):
    recipe, folder = complete
    path = train_until(tmp_path, monkeypatch, *PLACES[place], **recipe.to_dict())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv", "model.npz", "steps.csv"]
    progress = read_progress(tmp_path)
    assert (progress.epoch, progress.t, progress.recipe) == (2, 2 * STEPS, recipe)
    assert (progress.data, progress.source) == ("digits", DIGITS.source)
    model, rows = ViT.load(path), read_log(tmp_path / "log.csv")
    _, *validation = data.split_validation(DIGITS, 0.1)
    assert evaluate(model, *validation).loss == rows[1]["validation_loss"]

    resume(tmp_path, model, DIGITS, threads=1)
    assert path.read_bytes() == (folder / "model.npz").read_bytes()
    assert log_without_seconds(tmp_path) == log_without_seconds(folder)
    assert same_bits(model.params, ViT.load(path).params)


def test_a_training_can_be_interrupted_in_every_epoch(complete, tmp_path, monkeypatch):
    recipe, folder = complete
    path = train_until(tmp_path, monkeypatch, "batch_gradients", 3, **recipe.to_dict())
    for _ in range(EPOCHS - 1):
        with monkeypatch.context() as patch:
            interrupt(patch, "batch_gradients", STEPS + 1)
            with pytest.raises(KeyboardInterrupt):
                resume(tmp_path, ViT.load(path), DIGITS)
    resume(tmp_path, ViT.load(path), DIGITS)
    assert path.read_bytes() == (folder / "model.npz").read_bytes()
    assert log_without_seconds(tmp_path) == log_without_seconds(folder)


def test_a_training_of_version_0_1_0_can_be_resumed(tmp_path):
    # Its recipe and log have other field names, which RENAMED_FIELDS translates.
    d, old = data.load_digits(n=64), FIXTURES / "version_0_1_0"
    d = d._replace(held_out_images=d.held_out_images[:32], held_out_labels=d.held_out_labels[:32])
    shutil.copytree(old / "unfinished", tmp_path / "run")
    path = tmp_path / "run" / "model.npz"
    resume(tmp_path / "run", ViT.load(path), d)
    expected = flatten(ViT.load(old / "finished" / "model.npz").params)
    for name, leaf in flatten(ViT.load(path).params).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=0, atol=1e-5, err_msg=name)
    rows, old_rows = (read_log(f / "log.csv") for f in (tmp_path / "run", old / "finished"))
    assert [row["step"] for row in rows] == [row["step"] for row in old_rows] == [2, 4, 6]
    assert rows[-1]["learning_rate"] == old_rows[-1]["learning_rate"]


# --- the log -------------------------------------------------------------------------------------


def test_a_row_of_the_log_is_on_disk_before_the_checkpoint_of_its_epoch(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def record(number):
        fsync(number)
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        is_log = not path.name.startswith("model.npz.")
        synced.append(len(path.read_text().splitlines()) if is_log else path.name[:9])

    monkeypatch.setattr(os, "fsync", record)
    train(new_model(), DIGITS, make_recipe(epochs=2), tmp_path)
    model = "model.npz"  # the beginning of the name of its temporary file
    steps = [1, 1 + STEPS, 1 + 2 * STEPS]  # lines of the step log
    # lines of both logs, and checkpoints
    assert synced == [steps[0], model, 1, 2, steps[1], model, 3, steps[2], model]


def test_a_resumed_training_that_is_killed_at_once_keeps_its_log(interrupted, monkeypatch):
    before = (interrupted.parent / "log.csv").read_bytes()
    with monkeypatch.context() as patch:
        interrupt(patch, "_train_epoch", 1)
        with pytest.raises(KeyboardInterrupt):
            resume(interrupted.parent, ViT.load(interrupted), DIGITS)
    assert (interrupted.parent / "log.csv").read_bytes() == before


def test_a_training_that_was_killed_before_its_log_existed_can_be_resumed(tmp_path, monkeypatch):
    path = train_until(tmp_path, monkeypatch, "write_log", 1, epochs=2)
    assert not (tmp_path / "log.csv").exists()
    resume(tmp_path, ViT.load(path), DIGITS)
    assert [row["epoch"] for row in read_log(tmp_path / "log.csv")] == [1, 2]


def test_the_seconds_continue_from_the_checkpoint(interrupted):
    config, params = weights.load(interrupted)
    state = weights.load_training(interrupted)
    fields = json.loads(str(state["progress"])) | {"seconds": 1000.0}
    weights.save(interrupted, config, params, state | {"progress": np.array(json.dumps(fields))})
    resume(interrupted.parent, ViT.load(interrupted), DIGITS)
    seconds = [row["seconds"] for row in read_log(interrupted.parent / "log.csv")]
    assert seconds[1] < 1000 < seconds[2] <= seconds[3]


LOGS = {  # damage -> the reason in the warning
    "a truncated row": (lambda content: content[:-20], "is damaged"),
    "a truncated row of an incomplete epoch": (
        lambda content: content + b"3,15,0.0",
        "is damaged",
    ),
    "zero bytes": (lambda content: content + bytes(100), "is damaged"),
    "only zero bytes": (lambda content: bytes(len(content)), "lacks epochs"),
    "bytes that are not UTF-8": (lambda content: content + b"\xff\xfe", "is damaged"),
    "unrelated text": (lambda content: b"hello\nworld\n", "is damaged"),
    "empty": (lambda content: b"", "lacks epochs"),
    "a missing row": (lambda content: b"".join(content.splitlines(True)[:2]), "lacks epochs"),
    "missing": (None, "is missing"),
}


@pytest.mark.parametrize("damage", LOGS)
def test_a_log_that_is_not_usable_is_rewritten_with_one_warning(
    complete, tmp_path, monkeypatch, capsys, damage
):
    recipe, folder = complete
    path = train_until(tmp_path, monkeypatch, "evaluate", 3, **recipe.to_dict())
    log, (change, reason) = tmp_path / "log.csv", LOGS[damage]
    before = log.read_bytes()
    if change:
        log.write_bytes(change(before))
    else:
        log.unlink()
    capsys.readouterr()
    resume(tmp_path, ViT.load(path), DIGITS)
    warning, *epochs = capsys.readouterr().err.splitlines()
    assert warning == f"warning: {log} {reason}; it is rewritten from model.npz"
    assert [line[:9] for line in epochs] == ["epoch 3/4", "epoch 4/4"]
    assert log.read_bytes().startswith(before)
    assert log_without_seconds(tmp_path) == log_without_seconds(folder)
    assert path.read_bytes() == (folder / "model.npz").read_bytes()


@pytest.mark.parametrize("damage", [b"hello\nworld\n", b"", None])
def test_a_step_log_that_is_not_usable_loses_only_its_rows(
    complete, tmp_path, monkeypatch, capsys, damage
):
    recipe, folder = complete
    path = train_until(tmp_path, monkeypatch, "evaluate", 3, **recipe.to_dict())
    steps = tmp_path / "steps.csv"
    if damage is None:
        steps.unlink()
    else:
        steps.write_bytes(damage)
    capsys.readouterr()
    resume(tmp_path, ViT.load(path), DIGITS)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    message = f"warning: {steps} is not a training log; its rows are lost"
    assert warnings == ([message] if damage else [])
    assert path.read_bytes() == (folder / "model.npz").read_bytes()
    rows, expected = (read_log(f / "steps.csv", STEP_COLUMNS) for f in (tmp_path, folder))
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected[2 * STEPS :]]


def test_a_usable_log_gives_no_warning(interrupted, capsys):
    capsys.readouterr()
    resume(interrupted.parent, ViT.load(interrupted), DIGITS)
    assert "warning" not in capsys.readouterr().err


NOTE = (
    "note: with one shard, the last bits of the result depend on the number of BLAS threads, which "
    "was 2 and is now 4"
)


@pytest.mark.parametrize(
    ("shards", "cores", "notes"), [(1, 4, [NOTE]), (1, 2, []), (2, 4, [])], ids=str
)
def test_with_one_shard_a_note_states_that_the_bits_depend_on_the_blas_threads(
    tmp_path, monkeypatch, capsys, shards, cores, notes
):
    monkeypatch.setattr(run_module, "cpu_count", lambda: 2)
    path = train_until(tmp_path, monkeypatch, "evaluate", 2, shards=shards)
    monkeypatch.setattr(run_module, "cpu_count", lambda: cores)
    capsys.readouterr()
    resume(tmp_path, ViT.load(path), DIGITS)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("note: ")] == notes


@pytest.mark.parametrize("text", ["hello\nworld\n", "epoch,step\n1,2\n", "epoch,step\n1\n"])
def test_a_file_that_is_not_a_log_is_rejected(text, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"log\.csv is not a training log"):
        read_log(path)


# --- errors --------------------------------------------------------------------------------------


def test_a_complete_training_cannot_be_resumed(complete):
    _, folder = complete
    before = (folder / "log.csv").read_bytes()
    with pytest.raises(ResumeError, match=r"model\.npz is complete: there is nothing to resume"):
        resume(folder, ViT.load(folder / "model.npz"), DIGITS)
    assert (folder / "log.csv").read_bytes() == before


def test_a_folder_without_a_checkpoint_cannot_be_resumed(tmp_path):
    assert read_progress(tmp_path) is None
    assert read_progress(tmp_path / "missing") is None
    with pytest.raises(FileNotFoundError, match=r"model\.npz"):
        resume(tmp_path, new_model(), DIGITS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "letters"}, r"model\.npz was trained on the digits, not on the letters"),
        (
            {"labels": DIGITS.labels[::-1]},
            "the files or labels of the digits have changed since the run started",
        ),
        (
            {"classes": tuple("abcdefghij")},
            "the files or labels of the digits have changed since the run started",
        ),
    ],
)
def test_a_training_can_only_be_resumed_with_the_same_data(interrupted, fields, message):
    before = interrupted.read_bytes()
    with pytest.raises(ValueError, match=message):
        resume(interrupted.parent, ViT.load(interrupted), DIGITS._replace(**fields))
    assert interrupted.read_bytes() == before


def with_progress(text):
    return lambda training: training | {"progress": np.array(text)}


DAMAGES = {
    "progress that is not JSON": with_progress("{"),
    "progress that is a list": with_progress("[]"),
    "progress without an epoch": with_progress('{"recipe": {}}'),
    "an unknown recipe field": with_progress('{"recipe": {"colour": 3}, "epoch": 2, "t": 10}'),
    "an invalid recipe": with_progress('{"recipe": {"learning_rate": -1}, "epoch": 2, "t": 10}'),
    "an epoch too large": with_progress('{"recipe": {"epochs": 4}, "epoch": 5, "t": 10}'),
    "no m": lambda training: {n: a for n, a in training.items() if n != "m"},
    "v of another shape": lambda training: training | {"v": training["v"][:-1]},
    "v that would be broadcast": lambda training: training | {"v": training["v"][:1]},
    "m with NaN": lambda training: training | {"m": training["m"] * np.nan},
    "no running weights": lambda training: {n: a for n, a in training.items() if n != "running"},
    "running of another shape": lambda training: training | {"running": training["running"][:1]},
    "running with NaN": lambda training: training | {"running": training["running"] * np.nan},
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_rejected(tmp_path, monkeypatch, damage):
    path = train_until(tmp_path, monkeypatch, "evaluate", 2, ema=0.9)
    config, params = weights.load(path)
    weights.save(path, config, params, DAMAGES[damage](weights.load_training(path)))
    with pytest.raises(weights.CheckpointError) as error:
        resume(tmp_path, ViT.load(path), DIGITS)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert "running" not in damage or "'running'" in str(error.value)
