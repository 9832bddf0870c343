"""The command line: what it writes and prints, and how it ends: 0, 1, 2 or 130."""

import dataclasses
import os
import pickle
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import Run, run
from PIL import Image

import minivit
from minivit import ViT, ViTConfig, analysis, data, flatten, layers, training, weights
from minivit.analysis import localisation_scores
from minivit.analysis.plots import model as drawing
from minivit.checking import cases as proofs
from minivit.commands.arguments import given
from minivit.options import build_parser, looking
from minivit.training import loop, read_log
from minivit.training.presets import DIGITS, PRESETS

SMALL = ["--depth", "1", "--width", "16", "--heads", "2", "--mlp-width", "16"]
TRAIN = ["train", "--epochs", "1", "--batch-size", "100", "--warmup", "0", *SMALL]
OUTPUTS = ["attention.png", "curves.png", "log.csv", "model.npz"]


def start(*words, folder, **pipes):
    """A command in a process of its own, as a shell starts it."""
    command = [sys.executable, "-m", "minivit", *map(str, words)]
    return subprocess.Popen(command, cwd=folder, text=True, **pipes)


def run_alone(*words, folder):
    with start(*words, folder=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    return Run(process.returncode, out, err)


def failed(result, *names):
    """Exit status 1, and one line that says what is wrong and with which file."""
    assert result.status == 1
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("minivit: error: ")
    assert "Traceback" not in result.out + result.err
    for name in names:
        assert str(name) in result.err
    return True


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training from its start to its end: (how it ended, its folder)."""
    folder = tmp_path_factory.mktemp("trained") / "not" / "there" / "yet"
    return run(*TRAIN, "--out", folder), folder


@pytest.fixture
def quick(monkeypatch):
    """The linear model and the figures take longer than these trainings: they are only noted."""
    monkeypatch.setattr(training, "fit_logistic_regression", lambda dataset: 0.97)
    monkeypatch.setattr(analysis, "plot_curves", lambda log, path, *_: path.touch())
    monkeypatch.setattr(analysis, "draw_held_out", lambda model, dataset, path, *_: path.touch())


def moved(**fields):
    """A model of the digits whose answers differ from image to image."""
    shape = DIGITS | {"width": 16, "depth": 2, "heads": 2, "mlp_width": 16}
    model = ViT.create(ViTConfig(**shape | fields))
    rng = np.random.default_rng(1)
    for leaf in flatten(model.params).values():
        leaf += 0.3 * rng.normal(size=leaf.shape)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "moved.npz"
    moved().save(path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two held-out digits as files, light on dark, and dark on light."""
    folder = tmp_path_factory.mktemp("pictures")
    ink = (data.load_digits().held_out_images[:2, ..., 0] + 1) * 127.5
    for i, picture in enumerate(ink.astype(np.uint8)):
        Image.fromarray(picture).save(folder / f"light{i}.png")
        Image.fromarray(255 - picture).save(folder / f"dark{i}.png")
    return folder


# --- train -----------------------------------------------------------------------------------


def test_train_leaves_four_files_and_prints_both_accuracies(trained):
    result, folder = trained
    assert result.status == 0
    assert sorted(path.name for path in folder.iterdir()) == OUTPUTS
    for name in ("curves.png", "attention.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    (row,) = read_log(folder / "log.csv")
    lines = result.out.splitlines()
    assert lines[0].endswith(" parameters; 1,437 images of 8 x 8 to train on, 360 held out")
    size = sum(leaf.size for leaf in flatten(ViT.load(folder / "model.npz").params).values())
    assert lines[0].startswith(f"{size:,} parameters; ")
    assert lines[1].startswith(f"{row['held_out_accuracy']:.2%} of the held-out images right")
    baseline = re.fullmatch(r"(\d\d\.\d\d)% by logistic regression on the raw pixels", lines[2])
    assert float(baseline[1]) > 96
    assert lines[3] == f"in {folder}: model.npz, log.csv, curves.png, attention.png"
    assert result.err.startswith("epoch 1/1: loss ")
    assert len(result.err.splitlines()) == 1


def test_the_figures_of_a_training_are_of_its_log_and_its_last_layer(tmp_path, monkeypatch, quick):
    drawn = []
    monkeypatch.setattr(analysis, "plot_curves", lambda *args: drawn.append(args))
    monkeypatch.setattr(drawing, "plot_attention", lambda *args: drawn.append(args))
    monkeypatch.setattr(analysis, "draw_held_out", drawing.draw_held_out)
    assert run(*TRAIN, "--depth", 2, "--out", tmp_path).status == 0
    (log, curves, baseline), (_, _, _, attention, _, layer, *_) = drawn
    assert log == read_log(tmp_path / "log.csv")
    assert baseline == 0.97
    assert (curves, attention) == (tmp_path / "curves.png", tmp_path / "attention.png")
    assert range(2)[layer] == 1


def test_evaluate_agrees_with_the_log(trained):
    _, folder = trained
    (row,) = read_log(folder / "log.csv")
    result = run("evaluate", "--weights", folder / "model.npz")
    right = round(row["held_out_accuracy"] * 360)
    assert result.status == 0
    assert result.out.splitlines() == [
        f"{right} of 360 held-out images right: {row['held_out_accuracy']:.2%}",
        f"cross-entropy {row['held_out_loss']:.4f} nats",
    ]


def test_without_paths_all_commands_agree_on_one_folder(tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    assert run(*TRAIN).status == 0
    assert sorted(path.name for path in (tmp_path / "runs" / "digits").iterdir()) == OUTPUTS
    assert run("evaluate").status == 0
    result = run("attention", "--weights", "runs/digits/model.npz")
    assert (result.status, result.out) == (0, "attention.png\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attention.png", "runs"]


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "digit.png"]])
def test_without_a_training_the_commands_say_how_to_get_a_model(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    assert failed(run(*command), "runs/digits/model.npz yet: `python -m minivit train` makes it")


def test_evaluate_takes_the_data_set_that_fits(tmp_path, monkeypatch):
    few = data.load_scattered(n=1, held_out=20)
    monkeypatch.setitem(data.DATASETS, "scattered", lambda n=1: few)
    shape = PRESETS["scattered"][0] | {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16}
    model = ViT.create(ViTConfig(**shape), seed=0)
    model.save(tmp_path / "model.npz")
    result = run("evaluate", "--weights", tmp_path / "model.npz")
    right = int((model(few.held_out_images).argmax(1) == few.held_out_labels).sum())
    assert result.out.splitlines()[0] == f"{right} of 20 held-out images right: {right / 20:.2%}"


def another(name, choices):
    """A choice that is not the default."""
    defaults = DIGITS | dataclasses.asdict(training.Recipe())
    default = defaults.get(name, getattr(ViTConfig, name, None))
    return next(choice for choice in choices if choice != default)


GIVEN = {  # every option of a model and of a recipe, away from its default
    "image_size": (16, 24), "norm_eps": 0.0078125, "preprocessing": "dino", "freeze": True,
    "stem": (), "stem_width": 32, "patch_size": 1, "width": 24, "depth": 3, "heads": 6,
    "mlp_width": 20,
    "positions": another("positions", ["1d", "2d"]), "position_std": 0.515625,
    "pooling": another("pooling", ["class", "mean"]), "hidden_head": 7,
    "gelu": another("gelu", ["tanh", "erf"]), "dropout": 0.28125,
    "epochs": 3, "batch": 77, "optimiser": another("optimiser", ["adamw", "sgd"]),
    "rate": 0.00217, "warmup": 0.53125, "decay": another("decay", ["cosine", "linear"]),
    "weight_decay": 0.234375, "clip": 0.765625, "smoothing": 0.296875, "shift": 3, "seed": 91,
    "shards": 5, "drop_path": 0.171875, "flip": True, "randaugment": 2, "magnitude": 4.25,
    "erase": 0.328125, "mixup": 0.203125, "cutmix": 0.90625, "average": 0.984375, "accumulate": 2,
}  # fmt: skip


def option_of(name):
    """What sets a field."""
    return "--preprocess" if name == "preprocessing" else f"--{name.replace('_', '-')}"


@pytest.fixture
def called(monkeypatch):
    """What the training would have been called with."""
    calls = []
    monkeypatch.setattr(
        training,
        "train",
        lambda model, dataset, recipe, out, threads: calls.append((model, recipe, out, threads)),
    )
    monkeypatch.setattr(import_module("minivit.commands.train"), "report", lambda *args: None)
    return calls


def test_every_option_reaches_the_model_or_the_recipe(called, tmp_path):
    written = GIVEN | {"image_size": "16x24", "stem": "root"}
    options = [
        option_of(name) + ("" if value is True else f"={value}") for name, value in written.items()
    ]
    assert run("train", *options, "--threads", 3, "--out", tmp_path).status == 0
    ((model, recipe, out, threads),) = called
    found = dataclasses.asdict(model.config) | dataclasses.asdict(recipe)
    assert {name: found[name] for name in GIVEN} == GIVEN
    assert (out, threads) == (tmp_path, 3)
    first = flatten(ViT.create(model.config, seed=91).params)
    assert all(np.array_equal(first[name], leaf) for name, leaf in flatten(model.params).items())


def test_scattered_digits_have_a_model_a_recipe_and_a_folder_of_their_own(called, monkeypatch):
    few = data.load_scattered(n=10, held_out=10)
    monkeypatch.setitem(data.DATASETS, "scattered", lambda n=1: few)
    assert run("train", "--data", "scattered", "--epochs", 3).status == 0
    ((model, recipe, out, _),) = called
    assert model.config.image_size == few.images.shape[1:3]
    shape, how, _ = PRESETS["scattered"]
    assert model.config == ViTConfig(**shape)
    assert recipe == training.Recipe(**how | {"epochs": 3})
    assert out == Path("runs/scattered")


def test_without_options_the_defaults_hold(called, tmp_path):
    assert run("train", "--out", tmp_path).status == 0
    ((model, recipe, _, threads),) = called
    assert model.config == ViTConfig(**DIGITS)
    assert recipe == training.Recipe()
    assert threads is None


# --- interrupted, and gone on with -----------------------------------------------------------


def interrupt(monkeypatch, function, call):
    """Let one of the loop's functions raise KeyboardInterrupt when it is called that time."""
    real, calls = getattr(loop, function), []

    def interrupted(*args, **kwargs):
        calls.append(function)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, function, interrupted)


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """The folder of a training that was interrupted in the second of its three epochs."""
    folder = tmp_path / "unfinished"
    with monkeypatch.context() as patch:
        interrupt(patch, "evaluate", 2)
        assert run(*TRAIN, "--epochs", 3, "--out", folder).status == 130
    return folder


@pytest.mark.parametrize(
    ("function", "call", "epoch"),
    [("evaluate", 1, 0), ("evaluate", 2, 1), ("_save", 3, 1), ("_save", 2, 0)],
)
def test_an_interrupted_training_says_what_is_left(tmp_path, monkeypatch, function, call, epoch):
    # Interrupted in _save, the log is one row ahead of the checkpoint.
    interrupt(monkeypatch, function, call)
    result = run(*TRAIN, "--epochs", 3, "--out", tmp_path)
    assert result.status == 130
    path = tmp_path / "model.npz"
    assert result.err.splitlines()[-1] == f"stopped: {path} holds epoch {epoch}; --resume goes on"
    assert "Traceback" not in result.err
    progress = str(weights.load_training(path)["progress"])
    assert f'"epoch": {epoch},' in progress


def test_a_training_interrupted_before_anything_is_saved_leaves_nothing(tmp_path, monkeypatch):
    interrupt(monkeypatch, "_save", 1)
    result = run(*TRAIN, "--out", tmp_path)
    assert result.status == 130
    assert "No such file" not in result.err
    assert "holds epoch" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_resume_goes_on_to_the_end(unfinished, quick):
    result = run("train", "--resume", "--out", unfinished)
    assert result.status == 0
    assert sorted(path.name for path in unfinished.iterdir()) == OUTPUTS
    assert [row["epoch"] for row in read_log(unfinished / "log.csv")] == [1, 2, 3]
    assert [line[:9] for line in result.err.splitlines()] == ["epoch 2/3", "epoch 3/3"]
    result = run("train", "--resume", "--out", unfinished)
    assert failed(result, unfinished / "model.npz", "fully trained")


@pytest.mark.parametrize("figure", ["plot_curves", "draw_held_out"])
def test_a_stop_before_the_figures_are_drawn_is_made_good(tmp_path, monkeypatch, quick, figure):
    def stop(*args):
        raise KeyboardInterrupt

    for _ in range(2):  # over the figures of the one before
        with monkeypatch.context() as patch:
            patch.setattr(analysis, figure, stop)
            result = run(*TRAIN, "--out", tmp_path)
        where = tmp_path / "model.npz"
        assert result.status == 130
        last = f"stopped: {where} is fully trained; --resume --data digits draws its figures"
        assert result.err.splitlines()[-1] == last
        assert not (tmp_path / "attention.png").exists()
        before = {name: (tmp_path / name).read_bytes() for name in ("model.npz", "log.csv")}
        result = run("train", "--resume", "--out", tmp_path)
        assert (result.status, result.err) == (0, "")
        lines = result.out.splitlines()
        assert lines[1] == f"{where} is fully trained: only its figures are drawn"
        assert lines[-1] == f"in {tmp_path}: model.npz, log.csv, curves.png, attention.png"
        assert sorted(path.name for path in tmp_path.iterdir()) == OUTPUTS
        assert before == {name: (tmp_path / name).read_bytes() for name in before}
    assert failed(run("train", "--resume", "--out", tmp_path), where, "fully trained")
    (tmp_path / "curves.png").unlink()
    (tmp_path / "log.csv").write_bytes(b"")
    assert failed(run("train", "--resume", "--out", tmp_path), "log.csv has no rows")


def test_missing_figures_are_not_drawn_of_other_data(tmp_path, monkeypatch, quick):
    few = data.load_scattered(n=10, held_out=300)
    monkeypatch.setitem(data.DATASETS, "scattered", lambda n=1: few)
    assert run(*TRAIN, "--epochs", 4, "--lr", 0.01, "--out", tmp_path).status == 0
    (tmp_path / "curves.png").unlink()
    result = run("train", "--resume", "--data", "scattered", "--out", tmp_path)
    assert failed(result, tmp_path / "log.csv", "of other images than the scattered digits")
    assert not (tmp_path / "curves.png").exists()


def test_an_unfinished_training_is_not_dropped_unasked(unfinished, quick):
    before = (unfinished / "model.npz").read_bytes()
    result = run(*TRAIN, "--out", unfinished)
    assert failed(result, unfinished, "--resume it, or --overwrite")
    assert (unfinished / "model.npz").read_bytes() == before
    assert run(*TRAIN, "--overwrite", "--out", unfinished).status == 0
    assert len(read_log(unfinished / "log.csv")) == 1
    assert run(*TRAIN, "--out", unfinished).status == 0  # a finished one may be replaced


def test_settings_cannot_change_on_the_way(unfinished):
    for option in (["--epochs", 9], ["--width", 32]):
        result = run("train", "--resume", *option, "--out", unfinished)
        assert result.status == 2
        assert "--resume" in result.err.splitlines()[-1]


def test_resume_needs_something_to_go_on_with(tmp_path):
    assert failed(run("train", "--resume", "--out", tmp_path), tmp_path / "model.npz")


def test_a_log_that_is_gone_or_damaged_is_named(unfinished):
    (unfinished / "log.csv").write_text("hello\nworld\n")
    assert failed(run("train", "--resume", "--out", unfinished), unfinished / "log.csv")
    (unfinished / "log.csv").unlink()
    assert failed(run("train", "--resume", "--out", unfinished), unfinished / "log.csv")


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(tmp_path, quick):
    command = ["train", "--epochs", 2, "--width", 64, "--depth", 2, "--heads", 4]
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored by the child
    try:
        process = start(*command, "--out", "run", folder=tmp_path, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, previous)
    with process:
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert first.startswith("epoch 1/2")
    assert rest.splitlines() == ["", "stopped: run/model.npz holds epoch 1; --resume goes on"]
    assert process.returncode == 130

    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == ["log.csv", "model.npz"]
    ViT.load(folder / "model.npz")
    assert run("train", "--resume", "--out", folder).status == 0
    assert [row["epoch"] for row in read_log(folder / "log.csv")] == [1, 2]


# --- fine-tuning -----------------------------------------------------------------------------

TUNE = ["--epochs", 1, "--batch-size", 100, "--warmup", 0]


@pytest.fixture
def origin(tmp_path):
    """A file to begin from: (its path, its model)."""
    model = moved(classes=7, hidden_head=5, dropout=0.5)
    model.save(tmp_path / "origin.npz")
    return tmp_path / "origin.npz", model


def test_fine_tuning_begins_from_the_file_with_the_paper_s_recipe(called, origin, monkeypatch):
    path, old = origin
    assert run("train", "--from", path).status == 0
    ((model, recipe, out, threads),) = called
    assert model.config == dataclasses.replace(
        old.config, classes=10, hidden_head=None, dropout=0.0
    )
    before = flatten(old.params)
    for name, leaf in flatten(model.params).items():
        expected = np.zeros_like(leaf) if name.startswith("head") else before[name]
        assert np.array_equal(leaf, expected), name
    assert recipe == training.FINE_TUNING
    assert (out, threads) == (Path("runs/digits-tuned"), None)


def test_options_of_fine_tuning_reach_the_file_s_model_and_the_recipe(called, origin, tmp_path):
    path, old = origin
    model_options = ["--image-size", "12x16", "--heads", 4, "--gelu", "erf", "--norm-eps", 1e-4]
    recipe_options = ["--freeze", "--lr", 0.25, "--seed", 3, "--out", tmp_path]
    result = run("train", "--from", path, *model_options, "--dropout", 0.25, *recipe_options)
    assert result.status == 0, result.err
    ((model, recipe, out, _),) = called
    c = model.config
    assert (c.image_size, c.heads, c.gelu, c.norm_eps) == ((12, 16), 4, "erf", 1e-4)
    assert (c.dropout, out) == (0.25, tmp_path)
    assert recipe == dataclasses.replace(
        training.FINE_TUNING, freeze=True, learning_rate=0.25, seed=3
    )
    table = weights.positions.resize_positions(
        old.params["positions"]["table"], (4, 4), (6, 8), "aligned"
    )
    assert np.array_equal(model.params["positions"]["table"], table)


def test_positions_are_resized_by_the_method_asked_for(called, origin):
    path, _ = origin
    for method in ("aligned", "bicubic"):
        words = ["--image-size", 16, "--resize", method]
        assert run("train", "--from", path, *words).status == 0
    aligned, bicubic = (call[0].params["positions"]["table"] for call in called)
    assert not np.array_equal(aligned, bicubic)
    assert np.array_equal(aligned[0], bicubic[0])


def without_a_table(path):
    """A file as big_vision's are once renamed: its positions are waves, and no array of it."""
    model = moved(positions="sincos2d", image_size=16, channels=3)
    model.save(path, layout="timm")
    with np.load(path) as archive:
        arrays = {n: a for n, a in archive.items() if n not in ("config", "pos_embed")}
    np.savez(path, **arrays)
    return model


def test_a_file_without_a_table_is_read_if_one_says_what_its_positions_are(
    tmp_path, monkeypatch, called
):
    path, expected = tmp_path / "waves.npz", without_a_table(tmp_path / "waves.npz")
    words = ["--image-size", 16, "--heads", 2, "--gelu", "tanh"]
    assert failed(run("evaluate", "--data", "digits", "--weights", path, *words), "'pos_embed'")
    words += ["--positions", "sincos2d"]
    assert run("train", "--from", path, *words).status == 0
    ((model, *_),) = called
    assert model.config.positions == "sincos2d"
    assert "positions" not in model.params
    d = data.resize_dataset(data.load_digits(), (16, 16), 3)
    loss = training.evaluate(expected, d.held_out_images, d.held_out_labels).loss
    for option in ([], ["--preprocess", "minivit"]):
        result = run("evaluate", "--data", "digits", "--weights", path, *words, *option)
        assert result.out.splitlines()[1] == f"cross-entropy {loss:.4f} nats"
    with monkeypatch.context() as patch:
        _, model = read_as(patch, "--weights", path, *words)
        assert model.config.positions == "sincos2d"
    out = tmp_path / "figure.png"
    assert run("attention", "--weights", path, *words, "--out", out).status == 0


def test_the_colours_of_a_data_set_are_those_asked_for(tmp_path, monkeypatch):
    path, seen = tmp_path / "like-timm.npz", []
    model = moved(image_size=16, channels=3, preprocessing="timm")
    model.save(path)
    monkeypatch.setattr(training, "train", lambda model, d, *_, **__: seen.append((model, d)))
    monkeypatch.setattr(import_module("minivit.commands.train"), "report", lambda *args: None)
    assert run("train", "--from", path, "--preprocess", "dino", "--out", tmp_path).status == 0
    ((tuned, fitted),) = seen
    assert tuned.config.preprocessing == "dino"
    d = data.resize_dataset(data.load_digits(), (16, 16), 3, "dino")
    assert np.array_equal(fitted.images[:9], d.images[:9])
    loss = training.evaluate(model, d.held_out_images, d.held_out_labels).loss
    words = ["evaluate", "--data", "digits", "--weights", path]
    result = run(*words, "--preprocess", "dino")
    assert result.out.splitlines()[1] == f"cross-entropy {loss:.4f} nats"
    assert run(*words).out != result.out


def test_fine_tuning_tells_how_much_is_trained_on_images_of_which_size(called, origin):
    words = ["train", "--from", origin[0], "--image-size", "12x16"]
    images = "1,437 images of 12 x 16 to train on, 360 held out\n"
    assert run(*words).out.endswith(f" parameters; {images}")
    result = run(*words, "--freeze")
    size = sum(leaf.size for leaf in flatten(called[1][0].params).values())
    assert result.out == f"{size:,} parameters, 170 of them trained; {images}"


@pytest.mark.parametrize("freeze", [[], ["--freeze"]], ids=["all", "head"])
def test_fine_tuning_on_larger_coloured_images_ends_with_figures_and_a_model(
    tmp_path, quick, freeze
):
    path, out = tmp_path / "coloured.npz", tmp_path / "run"
    moved(channels=3, image_size=8, preprocessing="dino").save(path)
    words = ["train", "--from", path, "--image-size", 12, *TUNE, *freeze, "--out", out]
    result = run(*words)
    assert result.status == 0, result.err
    assert sorted(p.name for p in out.iterdir()) == OUTPUTS
    model = ViT.load(out / "model.npz")
    assert (model.config.image_size, model.config.channels) == ((12, 12), 3)
    d = data.resize_dataset(data.load_digits(), (12, 12), 3, "dino")
    (row,) = read_log(out / "log.csv")
    score = training.evaluate(model, d.held_out_images, d.held_out_labels)
    assert (row["held_out_loss"], row["held_out_accuracy"]) == score
    result = run("evaluate", "--data", "digits", "--weights", out / "model.npz")
    assert f"cross-entropy {score.loss:.4f} nats" in result.out


def test_an_interrupted_fine_tuning_goes_on_to_the_same_bits(origin, tmp_path, monkeypatch, quick):
    words = ["train", "--from", origin[0], "--image-size", 12, *TUNE, "--epochs", 3, "--freeze"]
    assert run(*words, "--out", tmp_path / "whole").status == 0
    with monkeypatch.context() as patch:
        interrupt(patch, "evaluate", 2)
        assert run(*words, "--out", tmp_path / "parts").status == 130
    assert failed(run(*words, "--out", tmp_path / "parts"), "--resume it, or --overwrite")
    assert run("train", "--resume", "--out", tmp_path / "parts").status == 0
    one, other = (tmp_path / part / "model.npz" for part in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()


def test_a_training_does_not_go_on_with_other_data(unfinished, monkeypatch):
    few = data.load_scattered(n=10, held_out=10)
    monkeypatch.setitem(data.DATASETS, "scattered", lambda n=1: few)
    before = (unfinished / "log.csv").read_bytes()
    result = run("train", "--resume", "--data", "scattered", "--out", unfinished)
    assert failed(result, unfinished / "model.npz", "on the digits, not on the scattered digits")
    assert (unfinished / "log.csv").read_bytes() == before


def test_a_size_that_cannot_be_cut_is_named_and_leaves_nothing(origin, tmp_path):
    result = run("train", "--from", origin[0], "--image-size", 15, "--out", tmp_path / "run")
    assert failed(result, "image_size 15 x 15 cannot be cut into patches of 2 x 2")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["none", "text"])
def test_a_file_to_begin_from_that_is_none_is_named(tmp_path, damage):
    path = tmp_path / "origin.npz"
    if damage == "text":
        path.write_text("hello")
    assert failed(run("train", "--from", path, "--out", tmp_path / "run"), path)
    assert not (tmp_path / "run").exists()


def test_a_fine_tuning_that_diverges_says_so_in_one_line(origin, tmp_path):
    result = run("train", "--from", origin[0], *TUNE, "--lr", "1e39", "--out", tmp_path / "run")
    assert failed(result, "in epoch 1", "may be too high")


# --- evaluate on any data, and by few shots --------------------------------------------------


def test_evaluate_fits_the_data_to_the_model(tmp_path):
    path = tmp_path / "large.npz"
    model = moved(image_size=16, channels=3)
    model.save(path)
    assert failed(run("evaluate", "--weights", path), path, "16 x 16 x 3: say with --data")
    d = data.resize_dataset(data.load_digits(), (16, 16), 3)
    score = training.evaluate(model, d.held_out_images, d.held_out_labels)
    result = run("evaluate", "--weights", path, "--data", "digits")
    assert result.out.splitlines()[1] == f"cross-entropy {score.loss:.4f} nats"
    larger = run("evaluate", "--weights", path, "--data", "digits", "--image-size", 32)
    assert larger.status == 0
    assert larger.out != result.out


@pytest.mark.parametrize("classes", [None, 5])
def test_a_model_of_other_classes_or_none_is_evaluated_by_few_shots_alone(tmp_path, classes):
    path = tmp_path / "other.npz"
    model = moved(classes=classes)
    model.save(path)
    what = "has no classifier for their 10" if classes is None else "knows 5 classes, not their 10"
    assert failed(run("evaluate", "--weights", path), path, what, "train --from")
    result = run("evaluate", "--weights", path, "--shots", 1, 10)
    d = data.load_digits()
    features, others = model.features(d.images), model.features(d.held_out_images)
    found = training.evaluate_few_shot(features, d.labels, others, d.held_out_labels, shots=(1, 10))
    assert result.out.splitlines() == [
        f"{n} of each class: {row.mean():.2%} of the held-out images right, "
        f"from {row.min():.2%} to {row.max():.2%} in 3 draws"
        for n, row in zip((1, 10), found, strict=True)
    ]


def test_more_shots_than_a_class_has_images_are_refused(checkpoint):
    result = run("evaluate", "--weights", checkpoint, "--shots", 5, 1000)
    assert failed(result, "too few for 1000 shots")
    assert result.out == ""


# --- evaluate, predict, attention ------------------------------------------------------------


def test_predict_names_the_likeliest_classes(checkpoint, pictures):
    files = [pictures / "light0.png", pictures / "light1.png"]
    result = run("predict", "--weights", checkpoint, *files)
    assert result.status == 0
    images = np.stack([data.read_image(file, (8, 8), 1) for file in files])
    probabilities, _ = layers.softmax(ViT.load(checkpoint)(images))
    lines = []
    for file, p in zip(files, probabilities, strict=True):
        best = sorted(range(10), key=p.__getitem__, reverse=True)[:3]
        lines.append(f"{file}: " + ", ".join(f"{c} ({p[c]:.1%})" for c in best))
    assert result.out.splitlines() == lines
    assert lines[0].partition(":")[2] != lines[1].partition(":")[2]


@pytest.mark.parametrize(("top", "count"), [(1, 1), (10, 10), (99, 10)])
def test_as_many_classes_as_asked_for(checkpoint, pictures, top, count):
    picture = pictures / "light0.png"
    result = run("predict", "--weights", checkpoint, "--top", top, picture)
    shares = [float(share) for share in re.findall(r"\(([\d.]+)%\)", result.out)]
    assert len(shares) == count
    assert shares == sorted(shares, reverse=True)
    assert count == 1 or sum(shares) == pytest.approx(100, abs=0.6)


def test_invert_is_for_dark_ink_on_white_paper(checkpoint, pictures):
    answers = [
        run("predict", "--weights", checkpoint, *options).out.partition(":")[2]
        for options in (
            [pictures / "light0.png"],
            ["--invert", pictures / "dark0.png"],
            [pictures / "dark0.png"],
        )
    ]
    assert answers[0] == answers[1] != answers[2]


# --- photographs -----------------------------------------------------------------------------


@pytest.fixture
def colourful(tmp_path):
    """A file of weights that takes coloured images of 16 x 24, of five classes."""
    fields = {"image_size": (16, 24), "channels": 3, "classes": 5, "preprocessing": "dino"}
    moved(**fields).save(tmp_path / "colourful.npz")
    return tmp_path / "colourful.npz"


@pytest.fixture
def photograph(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def labels(tmp_path):
    (tmp_path / "labels.txt").write_text("tench\ngreat white shark\ncrane\ntissue, toilet\nox\n")
    return tmp_path / "labels.txt"


def test_predict_calls_the_classes_by_their_names(colourful, photograph, labels):
    words = ["predict", "--weights", colourful, "--labels", labels, "--top", 5, photograph]
    result = run(*words)
    assert (result.status, result.err) == (0, "")
    image = data.read_image(photograph, (16, 24), 3, "dino")
    (p,), _ = layers.softmax(ViT.load(colourful)(image[None]))
    names = labels.read_text().splitlines()
    best = sorted(range(5), key=p.__getitem__, reverse=True)
    assert result.out.splitlines() == [str(photograph), *(f"{p[c]:8.1%}  {names[c]}" for c in best)]


def read_as(monkeypatch, *words):
    """The images that a model is shown, and the model."""
    calls = []

    def seen(self, images):
        calls.append((images, self))
        return np.zeros((len(images), self.config.classes), np.float32)

    monkeypatch.setattr(ViT, "__call__", seen)
    assert run("predict", *words).status == 0
    (call,) = calls
    return call


def test_pictures_are_brought_to_a_model_by_its_own_rules_or_those_asked_for(
    colourful, photograph, monkeypatch
):
    words = ["--weights", colourful, photograph]
    size, how = (16, 24), data.get_preprocessing("dino", (16, 24))
    for words_of_rules, rules in [
        ([], how),
        (["--preprocess", "timm"], "timm"),
        (["--short-side", 20], dataclasses.replace(how, short_side=20)),
        (["--preprocess=google", "--short-side=16"], data.Preprocessing(16, antialias=False)),
    ]:
        images, _ = read_as(monkeypatch, *words, *words_of_rules)
        expected = data.read_image(photograph, size, 3, rules)
        assert np.array_equal(images[0], expected), words_of_rules
    images, _ = read_as(monkeypatch, *words, "--invert")
    assert np.array_equal(images[0], how.invert(data.read_image(photograph, size, 3, how)))


def test_how_the_weights_are_read_is_asked_for(colourful, photograph, monkeypatch):
    asked = ["--image-size=32x48", "--heads=4", "--gelu=erf", "--norm-eps=1e-3"]
    images, model = read_as(monkeypatch, "--weights", colourful, photograph, *asked)
    c = model.config
    assert images.shape == (1, 32, 48, 3)
    assert (c.image_size, c.heads, c.gelu, c.norm_eps) == ((32, 48), 4, "erf", 1e-3)
    words = ["--weights", colourful, photograph, "--image-size=32x48"]
    _, by_bicubic = read_as(monkeypatch, *words, "--resize=bicubic")
    for method, one in [("aligned", model), ("bicubic", by_bicubic)]:
        expected = ViT.load(colourful, image_size=(32, 48), resize=method).params["positions"]
        assert np.array_equal(one.params["positions"]["table"], expected["table"])


def test_without_a_file_a_model_of_photographs_is_shown_the_portrait(
    colourful, labels, tmp_path, monkeypatch
):
    portrait = data.sample_photograph()
    result = run("predict", "--weights", colourful, "--labels", labels)
    assert result.out.splitlines()[0] == str(portrait)
    drawn = []
    monkeypatch.setattr(drawing, "plot_overlays", lambda *arguments: drawn.append(arguments))
    assert run("attention", "--weights", colourful).status == 0
    assert run("attention", "--weights", colourful, "--labels", labels).status == 0
    (images, _, grid, _, titles, *_), (*_, named, _, _) = drawn
    how = data.get_preprocessing("dino", (16, 24))
    expected = how.denormalise(data.read_image(portrait, (16, 24), 3, how))
    np.testing.assert_array_equal(images[0], expected)
    assert grid == ViT.load(colourful).config.grid
    assert titles == ["grace_hopper.jpg"]
    best = result.out.splitlines()[1].split(maxsplit=1)[::-1]
    assert named == ["grace_hopper.jpg\n{} ({})".format(*best)]


def test_without_a_file_a_model_of_digits_predicts_nothing(checkpoint):
    result = run("predict", "--weights", checkpoint)
    assert result.status == 2
    assert "error: name the image files" in result.err


def test_a_model_without_a_classifier_is_drawn_but_names_nothing(photograph, labels, tmp_path):
    path, out = tmp_path / "none.npz", tmp_path / "figure.png"
    moved(image_size=16, channels=3, classes=None).save(path)
    words = ["--weights", path, photograph]
    assert failed(run("predict", *words), path, "no classifier: it knows no classes to name")
    assert run("attention", *words, "--out", out).status == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert failed(run("attention", *words, "--labels", labels), path, "no classifier")
    assert failed(run("attention", *words, "--kind", "gradients"), "no classifier")


@pytest.mark.parametrize("command", ["predict", "attention"])
def test_labels_that_do_not_fit_are_named(colourful, photograph, labels, command):
    words = [command, "--weights", colourful, photograph, "--labels"]
    labels.write_text("tench\nox\n")
    assert failed(run(*words, labels), labels, "has 2 lines, but the model knows 5 classes")
    assert failed(run(*words, photograph), photograph, "is not a text file")
    assert failed(run(*words, labels.parent / "none.txt"), "there is no file", "none.txt")


@pytest.mark.parametrize("kind", ["maps", "distance", "filters"])
@pytest.mark.parametrize(
    ("option", "names"),
    [
        (["--labels", "labels.txt"], "--labels"),
        (["--short-side", 9], "--short-side"),
        (["--invert"], "--invert"),
        (["--invert", "--labels", "labels.txt"], "--labels, --invert"),
        (["--invert", "--data", "digits"], "--invert"),
    ],
    ids=str,
)
def test_options_of_image_files_without_any_are_bad_usage(
    checkpoint, tmp_path, kind, option, names
):
    if "--data" in option and kind == "filters":
        return
    out = ["--out", tmp_path / "figure.png"]
    result = run("attention", "--weights", checkpoint, "--kind", kind, *option, *out)
    assert result.status == 2
    assert result.err.endswith(f"error: {names}: of image files, and there are none\n")


def test_options_of_image_files_count_for_the_portrait(colourful, tmp_path):
    figures = [tmp_path / "plain.png", tmp_path / "negative.png"]
    for option, out in zip([[], ["--invert"]], figures, strict=True):
        words = ["attention", "--weights", colourful, "--kind", "distance", *option, "--out", out]
        assert run(*words).status == 0
    assert figures[0].read_bytes() != figures[1].read_bytes()


def test_a_picture_too_small_for_its_crop_is_named(colourful, photograph):
    result = run("predict", "--weights", colourful, photograph, "--short-side", 8)
    assert failed(result, photograph, "no image of 16 x 24 pixels can be cut")


def figure_of(monkeypatch, *words):
    """What a figure would show: the arguments of plot_attention."""
    calls = []

    def seen(images, maps, grid, path, titles, layer, gradients, boxes):
        calls.append({"images": images, "path": path, "titles": titles, "layer": layer})
        calls[-1]["boxes"] = boxes
        assert len(images) == maps.shape[1] == len(titles)
        assert gradients.shape == maps.shape

    monkeypatch.setattr(drawing, "plot_attention", seen)
    assert run("attention", *words).status == 0
    (call,) = calls
    return call


@pytest.mark.parametrize(("option", "layer"), [([], -1), (["--layer", 1], 0), (["--layer=-2"], -2)])
def test_attention_is_of_the_layer_asked_for(checkpoint, monkeypatch, option, layer):
    call = figure_of(monkeypatch, "--weights", checkpoint, *option)
    assert range(2)[call["layer"]] == range(2)[layer]


def test_attention_is_of_five_held_out_digits_or_of_the_files_given(
    checkpoint, pictures, monkeypatch
):
    call = figure_of(monkeypatch, "--weights", checkpoint)
    labels = [int(re.fullmatch(r"(\d), read as (\d)", title)[1]) for title in call["titles"]]
    d = data.load_digits()
    label_of = dict(zip(map(bytes, d.held_out_images), d.held_out_labels, strict=True))
    assert [label_of[bytes(image)] for image in call["images"]] == labels
    assert len(set(labels)) == 5
    files = [pictures / "light0.png", pictures / "dark1.png"]
    call = figure_of(monkeypatch, "--weights", checkpoint, *files)
    assert call["titles"] == ["light0.png", "dark1.png"]
    assert np.array_equal(call["images"][1], data.read_image(files[1], (8, 8), 1))
    assert call["boxes"] is None


def test_a_file_whose_name_is_no_text_is_drawn(checkpoint, pictures, tmp_path):
    odd = tmp_path / "\udcff.png"  # the byte 255
    try:
        odd.write_bytes((pictures / "light0.png").read_bytes())
    except OSError:
        pytest.skip("this system has no such names")
    out = tmp_path / "figure.png"
    assert run("attention", "--weights", checkpoint, odd, "--out", out).status == 0


@pytest.mark.parametrize("how", ["minivit", "dino"])
def test_attention_of_a_data_set_is_of_its_images_fitted_to_the_model(tmp_path, monkeypatch, how):
    path, drawn = tmp_path / "coloured.npz", []
    moved(image_size=(16, 24), channels=3, preprocessing=how).save(path)
    monkeypatch.setattr(drawing, "plot_overlays", lambda *arguments: drawn.append(arguments))
    monkeypatch.setattr(drawing, "attention_gradients", lambda model, images: (images, images))
    assert run("attention", "--weights", path, "--data", "digits").status == 0
    ((shown, seen, _, _, titles, *_),) = drawn
    d = data.resize_dataset(data.load_digits(), (16, 24), 3, how)
    chosen = [int(np.argmax(d.held_out_labels == c)) for c in (0, 2, 3, 4, 8)]
    assert np.array_equal(seen, d.held_out_images[chosen])
    plain = data.resize_dataset(data.load_digits(), (16, 24), 3).held_out_images[chosen]
    np.testing.assert_allclose(shown, plain, rtol=0, atol=1e-6)
    answers = ViT.load(path)(seen).argmax(-1)
    expected = [f"{c}, read as {k}" for c, k in zip((0, 2, 3, 4, 8), answers, strict=True)]
    assert titles == expected


def test_attention_of_a_data_set_with_boxes_that_is_resized_prints_no_shares(
    tmp_path, few_scattered
):
    path, out = tmp_path / "coloured.npz", tmp_path / "figure.png"
    moved(image_size=16, channels=3).save(path)
    result = run("attention", "--weights", path, "--data", "scattered", "--out", out)
    assert (result.status, result.out) == (0, f"{out}\n")


def test_attention_of_a_data_set_needs_a_model_of_its_classes(tmp_path, labels):
    path, out = tmp_path / "coloured.npz", tmp_path / "figure.png"
    moved(image_size=16, channels=3, classes=5).save(path)
    result = run("attention", "--weights", path, "--data", "digits", "--out", out)
    assert failed(result, path, "it knows 5 classes, not their 10")


def test_attention_writes_the_same_figure_twice(checkpoint, pictures, tmp_path):
    for name in ("one.png", "two.png"):
        words = ["attention", "--weights", checkpoint, pictures / "light0.png"]
        result = run(*words, "--out", tmp_path / name)
        assert (result.status, result.out, result.err) == (0, f"{tmp_path / name}\n", "")
    one, two = ((tmp_path / name).read_bytes() for name in ("one.png", "two.png"))
    assert one == two


@pytest.mark.parametrize("kind", drawing.KINDS)
def test_attention_draws_every_kind(checkpoint, tmp_path, kind):
    out = tmp_path / "figure.png"
    result = run("attention", "--weights", checkpoint, "--kind", kind, "--out", out)
    assert (result.status, result.out, result.err) == (0, f"{out}\n", "")
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["distance", "gradients"])
def test_attention_of_files_in_the_kinds_that_are_of_images(checkpoint, pictures, tmp_path, kind):
    words = ["attention", "--weights", checkpoint, "--kind", kind, "--out", tmp_path / "figure.png"]
    held_out, of_file = run(*words), tmp_path / "of_file.png"
    assert held_out.status == 0
    assert run(*words[:-1], of_file, pictures / "dark0.png", "--invert").status == 0
    assert of_file.read_bytes() != (tmp_path / "figure.png").read_bytes()


@pytest.fixture
def few_scattered(monkeypatch):
    """Forty scattered digits are held out, and the shipped checkpoint is one that never learned."""
    dataset = data.load_scattered(1, 40)
    monkeypatch.setitem(data.DATASETS, "scattered", lambda n=1: dataset)
    return dataset


@pytest.fixture
def scattered_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "shipped" / "scattered.npz"
    path.parent.mkdir()
    moved(image_size=24, patch_size=4).save(path)
    monkeypatch.setattr(looking, "SCATTERED_MODEL", path)
    return path


def test_the_checkpoint_that_comes_along_lies_beside_the_data():
    assert looking.SCATTERED_MODEL.parent == Path(data.__file__).parent
    assert looking.SCATTERED_MODEL.name == "scattered.npz"


@pytest.mark.parametrize("kind", ["maps", "gradients"])
def test_without_weights_attention_is_of_scattered_digits_and_tells_what_lies_on_them(
    few_scattered, scattered_checkpoint, tmp_path, kind
):
    out = tmp_path / "figure.png"
    result = run("attention", "--kind", kind, "--out", out)
    assert (result.status, result.err) == (0, "")
    *lines, last = result.out.splitlines()
    assert last == str(out)
    assert out.exists()
    model = ViT.load(scattered_checkpoint)
    shares = localisation_scores(model, few_scattered.held_out_images, few_scattered.held_out_boxes)
    assert lines == [
        f"{name}: {100 * shares[name]:.1f}% of the mass in the digit's box, which is 11.1% of the "
        "image (mean of 40 held-out images)"
        for name in ("rollout", "gradient-weighted", "gradient sum")
    ]


def test_maps_of_scattered_digits_have_their_boxes(
    few_scattered, scattered_checkpoint, monkeypatch
):
    call = figure_of(monkeypatch)
    labels = [int(re.fullmatch(r"(\d), read as (\d)", title)[1]) for title in call["titles"]]
    boxes = few_scattered.held_out_boxes
    place_of = {bytes(image): b for b, image in enumerate(few_scattered.held_out_images)}
    places = [place_of[bytes(image)] for image in call["images"]]
    assert few_scattered.held_out_labels[places].tolist() == labels
    assert np.array_equal(call["boxes"], boxes[places])


@pytest.mark.parametrize("kind", ["distance", "positions", "filters"])
def test_the_other_kinds_of_scattered_digits_print_only_where_they_are(
    few_scattered, scattered_checkpoint, tmp_path, kind
):
    out = tmp_path / "figure.png"
    result = run("attention", "--kind", kind, "--out", out)
    assert (result.status, result.out) == (0, f"{out}\n")


@pytest.mark.parametrize(
    ("positions", "words"), [("none", "has no positions"), ("relative", "relative positions")]
)
def test_positions_without_a_table_are_named(tmp_path, positions, words):
    moved(positions=positions).save(tmp_path / "model.npz")
    out = tmp_path / "figure.png"
    result = run(
        "attention", "--weights", tmp_path / "model.npz", "--kind", "positions", "--out", out
    )
    assert failed(result, words)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind", "positions", "digit.png"], "--kind positions is of the model alone"),
        (["--kind", "filters", "digit.png"], "--kind filters is of the model alone"),
        (["--kind", "distance", "--layer", 1], "--kind distance is of the whole model"),
        (["--kind", "filters", "--layer=-1"], "--kind filters is of the whole model"),
        (["--kind", "gradients", "--layer", 3], "--layer goes from 1 to 2, or -1 to -2; it is 3"),
        (["--kind", "rollout"], "invalid choice: 'rollout'"),
    ],
    ids=str,
)
def test_what_does_not_go_with_a_kind_is_bad_usage(checkpoint, tmp_path, words, message):
    out = tmp_path / "figure.png"
    result = run("attention", "--weights", checkpoint, "--out", out, *words)
    assert result.status == 2
    assert message in result.err.splitlines()[-1]
    assert not out.exists()


# --- gradcheck -------------------------------------------------------------------------------


def test_gradcheck_prints_a_row_for_each_argument():
    result = run("gradcheck", "layer_norm")
    assert (result.status, result.err) == (0, "")
    head, *rows, last = result.out.splitlines()
    assert head.split() == ["function", "argument", "error"]
    assert [row.split()[:2] for row in rows] == [
        ["layer_norm", "x"], ["layer_norm", "scale"], ["layer_norm", "bias"]
    ]  # fmt: skip
    errors = [float(row.split()[2]) for row in rows]
    assert max(errors) < 1e-12
    assert last == f"worst error {max(errors):.1e}; up to 1e-12 is rounding"


def test_gradcheck_of_words_is_of_the_names_that_have_all():
    result = run("gradcheck", "cross_entropy", "soft")
    names = {row[:34].strip() for row in result.out.splitlines()[1:-1]}
    assert names == {"cross_entropy, soft targets"}


def test_gradcheck_of_a_model_has_a_row_a_part_or_with_all_a_row_an_array():
    words = ["gradcheck", "ViT", "none", "mean", "linear", "erf"]
    parts, every = (run(*words, *option).out.splitlines()[1:-1] for option in ([], ["--all"]))
    arguments = [row[35:73].strip() for row in parts]
    assert arguments.count("params/blocks") == 1
    assert not any("/0/" in argument for argument in arguments)
    assert len(every) > 20
    assert any("params/blocks/1/attention/qkv/kernel" in row for row in every)


def broken_softmax(x):
    value, pullback = layers.softmax(x)
    return value, lambda dy: 2 * pullback(dy)


def test_gradcheck_fails_and_explains_when_a_layer_is_broken(monkeypatch):
    x = np.random.default_rng(0).normal(size=(2, 3))
    wrong = proofs.Case("softmax", broken_softmax, (x,))
    right = proofs.Case("linear", layers.linear, (x, x.T.copy()))
    monkeypatch.setattr(proofs, "layer_cases", lambda: [wrong, right])
    monkeypatch.setattr(proofs, "model_cases", lambda: [])
    result = run("gradcheck", "softmax")
    assert result.status == 1
    assert "softmax, x: worst at index" in result.out
    assert "Every entry is 2 times what it should be" in result.out
    assert run("gradcheck", "linear").status == 0  # the right one is still right
    result = run("gradcheck")
    assert result.status == 1
    assert len(result.out.splitlines()) == 1 + 3 + 1 + 1


# --- bad usage: 2 ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train", "--speed", "9"], "unrecognized arguments: --speed"),
        (["train", "--positions", "3d"], "invalid choice: '3d'"),
        (["train", "--data", "cats"], "or a folder of images by class; there is no folder cats"),
        (["train", "--optimiser", "adam"], "invalid choice: 'adam'"),
        (["train", "--width", "30", "--heads", "4"], "width 30 cannot be shared among 4 heads"),
        (["train", "--patch-size", "3"], "cannot be cut into patches of 3 x 3"),
        (["train", "--positions=2d", "--width=9", "--heads=3"], "a multiple of 2, not 9"),
        (["train", "--epochs", "0"], "--epochs: must be a whole number from 1 up, not 0"),
        (["train", "--epochs", "1.5"], "--epochs: must be a whole number from 1 up, not 1.5"),
        (["train", "--epochs", "many"], "--epochs: must be a whole number from 1 up, not many"),
        (["train", "--threads", "0"], "--threads: must be a whole number from 1 up, not 0"),
        (["train", "--shards", "-2"], "--shards: must be a whole number from 1 up, not -2"),
        (["train", "--lr", "-0.1"], "rate"),
        (["train", "--lr", "nan"], "rate"),
        (["train", "--lr", "fast"], "--lr: invalid float value: 'fast'"),
        (["train", "--dropout", "1"], "dropout is a rate from 0 to below 1"),
        (["train", "--label-smoothing", "1"], "smoothing is a share below 1"),
        (["train", "--shift", "-1"], "shift must be at least 0"),
        (["train", "--seed", "-1"], "seed must be at least 0"),
        (["train", "--resume", "--overwrite"], "not allowed with argument --resume"),
        (["train", "--resume", "--from", "x.npz"], "--resume goes on as begun"),
        (["train", "--resume", "--freeze"], "--resume goes on as begun"),
        (["train", "--resume", "--resize", "bicubic"], "--resume goes on as begun"),
        (["train", "--resize", "bicubic"], "it goes with --from"),
        (["train", "--from", "x.npz", "--resize", "bicubic"], "another --image-size: say it"),
        (["evaluate", "--resize", "bicubic"], "--resize is how positions become those of another"),
        (["predict", "--resize", "bicubic", "x.png"], "--resize is how positions become those of"),
        (["attention", "--resize", "bicubic"], "--resize is how positions become those of"),
        (["train", "--resume", "--preprocess", "dino"], "--resume goes on as begun"),
        (["attention", "--data", "digits", "x.png"], "--data is of held-out images: it goes with"),
        (["attention", "--data", "digits", "--kind", "filters"], "it takes no images"),
        (["attention", "--data", "letters"], "--data: is digits, scattered, mnist, fashion-mnist,"),
        (["predict", "--image-size", "31x"], "one number, or height and width as HxW, not 31x"),
        (["predict", "--image-size", "x31"], "one number, or height and width as HxW, not x31"),
        (["predict", "--image-size", ""], "must be a whole number from 1 up, not nothing"),
        (["train", "--norm-eps", "nan"], "norm_eps must be a finite number, it is nan"),
        (["train", "--position-std", "inf"], "position_std must be a finite number, it is inf"),
        (["train", "--norm-eps", "-1"], "norm_eps must not be negative, it is -1.0"),
        (["train", "--from", "x.npz", "--width", "8"], "--width: with --from, the model is the"),
        (["train", "--from", "x.npz", "--hidden-head", "8"], "--hidden-head: with --from, the"),
        (["train", "--from", "x.npz", "--lr", "-1"], "rate is a number from 0 up"),
        (["train", "--image-size", "9"], "9 x 9 cannot be cut into patches of 2 x 2"),
        (["train", "--image-size", "8x8x8"], "one number, or height and width as HxW"),
        (["evaluate", "--shots"], "--shots: expected at least one argument"),
        (["evaluate", "--shots", "0"], "--shots: must be a whole number from 1 up, not 0"),
        (["evaluate", "--data", "letters"], "or a folder of images by class; there is no folder l"),
        (["predict", "--image-size", "2x3x4"], "one number, or height and width as HxW, not 2x3x4"),
        (["predict", "--image-size", "0x8"], "--image-size: must be a whole number from 1 up, no"),
        (["predict", "--short-side", "-1"], "--short-side: must be a whole number from 1 up, not"),
        (["predict", "--preprocess", "mine"], "invalid choice: 'mine'"),
        (["attention", "--resize", "area"], "invalid choice: 'area'"),
        (["predict", "--top", "0", "x.png"], "--top: must be a whole number from 1 up, not 0"),
        (["attention", "--layer", "first"], "--layer: invalid int value"),
        (["gradcheck", "recurrence"], "no function's name has all of: recurrence"),
        (["gradcheck", "ViT", "layer_norm"], "no function's name has all of: ViT layer_norm"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_refused_in_words(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.status == 2
    assert result.err.startswith("usage: python -m minivit")
    assert ": error: " in result.err.splitlines()[-1]
    assert message in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    assert result.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layer", [0, 3, -3, 99])
def test_a_layer_that_the_model_does_not_have_is_bad_usage(checkpoint, tmp_path, layer):
    out = tmp_path / "figure.png"
    result = run("attention", "--weights", checkpoint, f"--layer={layer}", "--out", out)
    assert result.status == 2
    assert f"--layer goes from 1 to 2, or -1 to -2; it is {layer}" in result.err
    assert not out.exists()


# --- failures: 1 -----------------------------------------------------------------------------


def truncated(path, good):
    path.write_bytes(good.read_bytes()[:-200])


def pickled(path, good):
    path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))


def with_an_object(path, good):
    np.savez(path, config=np.array([{}], dtype=object))


def no_weights(path, good):
    path.write_text("hello")


BAD_WEIGHTS = [truncated, pickled, with_an_object, no_weights]


@pytest.mark.parametrize("damage", BAD_WEIGHTS)
@pytest.mark.parametrize("command", ["evaluate", "predict", "attention"])
def test_weights_that_are_none_are_refused(checkpoint, pictures, tmp_path, damage, command):
    path = tmp_path / "bad.npz"
    damage(path, checkpoint)
    picture = [pictures / "light0.png"] if command == "predict" else []
    assert failed(run(command, "--weights", path, *picture), path)


@pytest.mark.parametrize("command", ["evaluate", "predict", "attention"])
def test_missing_weights_are_named(pictures, tmp_path, command):
    path = tmp_path / "none.npz"
    picture = [pictures / "light0.png"] if command == "predict" else []
    assert failed(run(command, "--weights", path, *picture), path, "there is no file")


def test_damaged_weights_where_a_training_goes_are_named(tmp_path, quick):
    path = tmp_path / "model.npz"
    no_weights(path, None)
    assert failed(run(*TRAIN, "--out", tmp_path), path)
    assert run(*TRAIN, "--overwrite", "--out", tmp_path).status == 0


@pytest.mark.parametrize("command", ["predict", "attention"])
@pytest.mark.parametrize("content", [b"", b"hello, world", b"\x89PNG\r\n\x1a\n" + b"x" * 50, None])
def test_an_image_that_cannot_be_read_is_named(checkpoint, pictures, tmp_path, command, content):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    out = ["--out", tmp_path / "figure.png"] if command == "attention" else []
    good = pictures / "light0.png"
    result = run(command, "--weights", checkpoint, *out, "--", good, path)
    assert failed(result, path)
    assert result.out == ""
    assert not (tmp_path / "figure.png").exists()


@pytest.mark.parametrize("command", ["predict", "attention"])
def test_an_image_for_a_model_of_other_channels_is_named(pictures, tmp_path, command):
    weights_file = tmp_path / "two.npz"
    moved(channels=2).save(weights_file)
    picture = pictures / "light0.png"
    result = run(command, "--weights", weights_file, picture)
    assert failed(result, picture, "the model takes 2")


def test_a_folder_where_a_file_is_wanted_is_called_a_folder(colourful, photograph, tmp_path):
    words = ["predict", "--weights", colourful]
    expected = f"minivit: error: {tmp_path} is a folder: a file is wanted\n"
    assert run(*words, tmp_path).err == expected
    assert run(*words, photograph, "--labels", tmp_path).err == expected


@pytest.mark.parametrize(("text", "found"), [("", "0 lines"), ("\n\n", "0 lines"), ("a", "1 line")])
def test_the_lines_of_a_short_file_of_labels_are_counted(
    colourful, photograph, labels, text, found
):
    labels.write_text(text)
    result = run("predict", "--weights", colourful, photograph, "--labels", labels)
    assert failed(result, f"{labels} has {found}, but the model knows 5 classes")


@pytest.mark.parametrize("reason", ["what", "permission"])
def test_an_image_that_cannot_be_read_is_named_once(checkpoint, tmp_path, monkeypatch, reason):
    path = tmp_path / "bad.png"
    path.write_text("hello")
    if reason == "permission":  # which stops no superuser

        def refused(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Image, "open", refused)
    result = run("predict", "--weights", checkpoint, path)
    said = "cannot identify its kind" if reason == "what" else "Permission denied"
    assert result.err == f"minivit: error: {path} cannot be read as an image: {said}\n"


def test_a_figure_s_missing_folder_is_named_before_anything_is_computed(tmp_path, monkeypatch):
    out = tmp_path / "so" / "no" / "x.png"
    monkeypatch.setattr(ViT, "load", None)
    result = run("attention", "--out", out)
    assert result.err == f"minivit: error: {out}: there is no folder {out.parent}\n"
    assert result.status == 1


@pytest.mark.parametrize("command", ["evaluate", "attention"])
@pytest.mark.parametrize(
    "fields", [{"image_size": 16}, {"channels": 4}, {"classes": 5}, {"classes": 12}], ids=str
)
def test_weights_that_do_not_fit_the_digits_are_named(tmp_path, monkeypatch, command, fields):
    monkeypatch.chdir(tmp_path)
    moved(**fields).save("other.npz")
    assert failed(run(command, "--weights", "other.npz"), "other.npz")
    assert os.listdir() == ["other.npz"]


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below"])
def test_an_output_folder_that_cannot_be_is_named(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    assert failed(run(*TRAIN, "--out", tmp_path / place), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "model.npz").mkdir()
    result = run(*TRAIN, "--out", tmp_path)
    assert failed(result, tmp_path / "model.npz")
    assert ".tmp" not in result.err


@pytest.mark.parametrize("place", ["nowhere/figure.png", "."])
def test_a_figure_that_cannot_be_written_is_named(checkpoint, pictures, tmp_path, place):
    words = ["attention", "--weights", checkpoint, pictures / "light0.png"]
    assert failed(run(*words, "--out", tmp_path / place), tmp_path / place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", ["1e9", "1e39"])
def test_a_training_that_diverges_says_so_in_one_line(tmp_path, rate):
    result = run(*TRAIN, "--lr", rate, "--grad-clip", 0, "--out", tmp_path)
    assert failed(result, "in epoch 1", "may be too high")
    ViT.load(tmp_path / "model.npz")


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ([*TRAIN, "--out", "run"],
         ": a smaller --batch-size, or more --shards or --grad-accumulation, need less"),
        (["evaluate", "--weights", "model.npz"], ": a smaller --image-size needs less"),
        (["predict", "--weights", "model.npz", "x.png"],
         ": fewer images at a time, or a smaller --image-size, need less"),
        (["attention", "--weights", "model.npz"],
         ": fewer images at a time, or a smaller --image-size, need less"),
        (["gradcheck"], ""),
    ],
    ids=["train", "evaluate", "predict", "attention", "gradcheck"],
)  # fmt: skip
def test_a_lack_of_memory_is_a_plain_line_that_names_the_command_s_own_options(
    tmp_path, monkeypatch, pictures, words, advice
):
    def too_much(*args, **kwargs):
        raise MemoryError

    monkeypatch.chdir(tmp_path)
    moved().save("model.npz")
    Path("x.png").write_bytes((pictures / "light0.png").read_bytes())
    monkeypatch.setattr(loop, "packed_gradients", too_much)
    monkeypatch.setattr(ViT, "__call__", too_much)
    monkeypatch.setattr(proofs, "all_cases", too_much)
    result = run(*words)
    assert failed(result)
    assert result.err == f"minivit: error: out of memory{advice}\n"
    described = run(words[0], "--help").out
    assert all(option in described for option in re.findall(r"--[a-z-]+", advice))


# --- as a process of its own -----------------------------------------------------------------


def test_a_process_ends_with_the_status_of_its_command(checkpoint, tmp_path):
    result = run_alone("evaluate", "--weights", checkpoint, folder=tmp_path)
    assert (result.status, result.err) == (0, "")
    assert "of 360 held-out images right" in result.out
    assert failed(run_alone("evaluate", folder=tmp_path), "runs/digits/model.npz")
    result = run_alone("evaluate", "--speed", folder=tmp_path)
    assert (result.status, result.out) == (2, "")


def test_a_training_that_diverges_is_one_line_without_numpys_warnings(tmp_path):
    words = [*TRAIN, "--lr", "1e39", "--grad-clip", 0, "--out", "run"]
    assert failed(run_alone(*words, folder=tmp_path), "may be too high")


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start("gradcheck", "linear", folder=tmp_path, **pipes) as process:
        process.stdout.close()  # as `| head -0` does
        err = process.stderr.read()
        process.wait(60)
    assert process.returncode == 1
    assert err == ""


# --- help ------------------------------------------------------------------------------------

PHOTOGRAPHS = ["--labels", "--short-side", "--invert"]
READING = [
    "--image-size", "--resize", "--heads", "--positions", "--gelu", "--norm-eps", "--preprocess",
]  # fmt: skip
DEVICE = ["--device", "--precision"]
OPTIONS = {
    "train": [
        "--data", "--out", "--from", "--resize", "--resume", "--overwrite", "--threads",
        "--print-config", *DEVICE, *map(option_of, GIVEN),
    ],
    "evaluate": ["--data", "--shots", "--weights", *DEVICE, *READING],
    "predict": ["IMAGE", "--top", "--weights", *DEVICE, *PHOTOGRAPHS, *READING],
    "attention": [
        "IMAGE", "--data", "--kind", "--layer", "--out", "--weights", *DEVICE, *PHOTOGRAPHS,
        *READING,
    ],
    "gradcheck": ["WORD", "--all", "--device"],
    "cost": [
        "NAME", "--batch-size", "--dtype", "--measure", "--csv", "--image-size", "--classes",
        "--channels", "--patch-size", "--width", "--depth", "--heads", "--mlp-width",
        "--hidden-head", "--positions", "--pooling", "--gelu", "--dropout", "--drop-path",
        "--qkv-bias", "--patch-bias", "--stem", "--stem-width", "--optimiser", "--shards",
        "--threads", *DEVICE,
    ],
    "exercise": ["CHAPTER", "--start", "--hint", "--solution"],
}  # fmt: skip


def test_help_tells_what_the_weights_may_be_and_how_they_are_read():
    for command in ("train", "evaluate", "predict", "attention"):
        text = " ".join(run(command, "--help").out.split())
        assert "minivit's or anyone's" in text
        assert "a file or a folder" in text
        assert "64 wide" not in text
        if command != "train":
            assert "k (as the file or a usual width tells)" in text
            assert "where a bare file has just as many as the size has patches, they are" in text


def test_positions_of_a_bare_file_that_are_as_many_as_wanted_are_taken_as_they_are(tmp_path):
    path = tmp_path / "bare.npz"
    model = moved(channels=3)
    model.save(path, layout="timm")
    with np.load(path) as archive:
        np.savez(path, **{name: array for name, array in archive.items() if name != "config"})
    wide = ViT.load(path, image_size=(4, 16), heads=2)
    table = wide.params["positions"]["table"]
    assert np.array_equal(table, model.params["positions"]["table"])


def test_help_lists_the_commands():
    result = run("--help")
    assert result.status == 0
    listed = re.findall(r"^    (\w+)\s+[a-z]", result.out, re.MULTILINE)
    assert listed == list(OPTIONS)


@pytest.mark.parametrize("command", OPTIONS)
def test_help_tells_every_option_and_gives_examples_that_work(command, tmp_path, monkeypatch):
    result = run(command, "--help")
    assert result.status == 0
    described = result.out.partition("examples:")[0].partition("\n\n")[2]  # behind the usage
    for option in OPTIONS[command]:
        assert re.search(rf"^ +{option}\b", described, re.MULTILINE), option
    assert set(re.findall(r"^ +(--[a-z-]+)", described, re.MULTILINE)) == {
        option for option in OPTIONS[command] if option.startswith("--")
    }
    examples = re.findall(r"^  python -m minivit ([^>\n]*)", result.out, re.MULTILINE)
    assert len(examples) >= 2
    monkeypatch.chdir(tmp_path)
    Path("flowers").mkdir()  # what the examples speak of
    Path("flowers.txt").write_text("--data flowers  # as --print-config says it\n")
    for example in examples:
        assert build_parser().parse_args(example.split()).command == command


@pytest.mark.parametrize(
    ("written", "stem"), [("root", ()), ("3", (3,)), ("1,2", (1, 2)), ("none", None)]
)
def test_a_stem_is_written_as_it_is_printed(tmp_path, written, stem):
    words = ["--data", "cifar10", "--image-size", "64", "--stem", written, "--width", "8"]
    result = run("train", *words, "--print-config")
    assert result.status == 0
    assert f"--stem {written}" in result.out.splitlines()
    path = tmp_path / "config.txt"
    path.write_text(result.out)
    args = build_parser().parse_args(["train", f"@{path}"])
    assert given(args, ViTConfig)["stem"] == stem


def test_a_stem_that_is_no_stem_is_refused():
    for wrong in ("0", "3,", "resnet", ""):
        assert "argument --stem" in run("train", "--stem", wrong).err


def test_every_field_of_a_recipe_is_an_option():
    fields = {field.name for field in dataclasses.fields(training.Recipe)}
    assert fields < GIVEN.keys()


def test_every_field_of_a_model_is_an_option_or_decided_by_the_digits():
    fields = {field.name for field in dataclasses.fields(ViTConfig)}
    others = {"channels", "classes", "qkv_bias", "patch_bias"}
    assert fields - GIVEN.keys() == others


def test_the_version_is_that_of_the_package():
    result = run("--version")
    assert (result.status, result.out) == (0, f"minivit {minivit.__version__}\n")
