"""The command `train`: options, output, interruptions, resuming and fine-tuning."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import commands
from helpers.commands import OUTPUTS, QUICK, error_of, names_in, output_of, run, save_model
from helpers.models import same_bits
from helpers.trainings import interrupt

from minivit import ViT, ViTConfig, analysis, data, flatten, training
from minivit.cli.options import format_value, option_name
from minivit.training import read_log
from minivit.tree import count_parameters

calls, quick = commands.calls, commands.quick  # fixtures
TRAIN = ["train", *QUICK]
TUNE = ["train", "--from", "origin.npz", *QUICK[-6:]]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Provide the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- a complete training ----------------------------------------------------------------------


def test_train_writes_four_files_that_the_other_commands_use():
    status, out, err = run(*TRAIN)
    assert status == 0
    assert names_in(Path("runs/digits")) == OUTPUTS
    for name in ("curves.png", "attention.png"):
        assert Path("runs/digits", name).read_bytes().startswith(b"\x89PNG")
    (row,) = read_log("runs/digits/log.csv")
    size = count_parameters(ViT.load("runs/digits/model.npz").params)
    first_line, second, third, last = out.splitlines()
    images = "1,294 training images of 8 x 8 pixels, 143 validation images, 360 held-out images"
    assert first_line == f"{size:,} parameters; {images}"
    progress = training.read_progress("runs/digits")
    accuracy = f"{progress.test_accuracy:.2%} held-out accuracy"
    assert second == f"{accuracy} after {row['seconds']:.0f} s of training"
    baseline = re.fullmatch(r"(\d\d\.\d\d)% for logistic regression on the raw pixels", third)
    assert float(baseline[1]) > 96
    assert last == "saved in runs/digits: model.npz, log.csv, steps.csv, curves.png, attention.png"
    assert re.fullmatch(r"epoch 1/1: loss .*\n(warning: .* no better than chance: .*\n)?", err)
    correct = round(progress.test_accuracy * 360)
    assert output_of("evaluate").splitlines() == [
        f"{accuracy} ({correct} of 360 images)",
        f"cross-entropy {progress.test_loss:.4f} nats",
    ]
    words = ["attention", "--weights", "runs/digits/model.npz"]
    assert output_of(*words) == "attention.png\n"
    assert names_in(Path()) == ["attention.png", "runs"]


def test_the_figures_show_the_log_the_baseline_and_the_trained_model(monkeypatch, quick):
    figures = {}
    monkeypatch.setattr(analysis, "plot_curves", lambda *args: args)
    monkeypatch.setattr(analysis, "plot_held_out", lambda *args: args)
    monkeypatch.setattr(
        analysis, "save_figure", lambda figure, path: figures.update({path: figure})
    )
    assert run(*TRAIN, "--out", "run").status == 0
    model, dataset = figures[Path("run/attention.png")]
    score = training.evaluate(model, dataset.held_out_images, dataset.held_out_labels)
    log, title, note, baseline, test, bound = figures[Path("run/curves.png")]
    assert log == read_log("run/log.csv")
    assert title == "ViT with D=8, L=1, h=2, M=8, P=2 on the digits, seed 0"
    assert "measured with label smoothing and augmentation" in note
    assert (baseline, test) == (0.97, score.accuracy)
    targets = np.array([0.91, *[0.01] * 9])
    assert bound == pytest.approx(-(targets * np.log(targets)).sum())


OPTIONS = {  # every option of a model or a recipe, with a value that differs from the default
    "image_size": (16, 24), "norm_eps": 0.0078125, "preprocessing": "dino", "freeze": True,
    "stem": (), "stem_width": 32, "patch_size": 1, "width": 24, "depth": 3, "heads": 6,
    "mlp_width": 20, "positions": "2d", "position_std": 0.515625, "pooling": "mean",
    "hidden_head": 7, "gelu": "erf", "dropout": 0.28125, "epochs": 3, "batch_size": 77,
    "optimiser": "sgd", "learning_rate": 0.00217, "warmup": 0.53125, "schedule": "linear",
    "weight_decay": 0.234375, "grad_clip": 0.765625, "label_smoothing": 0.296875, "shift": 3,
    "seed": 91, "shards": 5, "drop_path": 0.171875, "flip": True, "randaugment": 2,
    "randaugment_magnitude": 4.25, "random_erasing": 0.328125, "mixup": 0.203125,
    "cutmix": 0.90625, "ema": 0.984375, "grad_accumulation": 2, "validation": 0.21875,
}  # fmt: skip


def test_every_option_reaches_the_model_or_the_recipe(calls):
    fields = {field.name for field in dataclasses.fields(training.Recipe)}
    fields |= {field.name for field in dataclasses.fields(ViTConfig)}
    assert fields - OPTIONS.keys() == {"channels", "classes", "qkv_bias", "patch_bias"}
    words = [
        option_name(name) + ("" if value is True else f"={format_value(name, value)}")
        for name, value in OPTIONS.items()
    ]
    assert run("train", *words, "--threads", 3, "--out", "run").status == 0
    (call,) = calls
    values = dataclasses.asdict(call.model.config) | dataclasses.asdict(call.recipe)
    assert {name: values[name] for name in OPTIONS} == OPTIONS
    assert (call.out, call.threads) == (Path("run"), 3)
    assert same_bits(call.model.params, ViT.create(call.model.config, seed=91).params)


@pytest.mark.parametrize(
    ("epochs", "warmup", "note"), [(2, 5, True), (2, 2, True), (3, 2, False), (2, 0, False)]
)
def test_a_note_is_printed_if_the_warm_up_is_not_shorter_than_the_training(epochs, warmup, note):
    words = ["--epochs", epochs, "--warmup", warmup, "--print-config"]
    assert run("train", *words).err == note * (
        f"note: the warm-up of {warmup} epochs is not shorter than the training, so the learning "
        "rate does not reach its peak. Pass a smaller --warmup\n"
    )


# --- interruptions ----------------------------------------------------------------------------


@pytest.fixture
def unfinished(monkeypatch):
    """Return the folder of a training that was interrupted in the second of three epochs."""
    with monkeypatch.context() as patch:
        interrupt(patch, "evaluate", 2)
        assert run(*TRAIN, "--epochs", 3, "--out", "run").status == 130
    return Path("run")


@pytest.mark.parametrize(
    ("function", "call", "epoch"),
    [
        ("evaluate", 1, 0), ("evaluate", 2, 1), ("save_checkpoint", 1, None),
        ("save_checkpoint", 2, 0), ("save_checkpoint", 3, 1),
    ],
)  # fmt: skip
def test_an_interruption_reports_the_saved_epoch(monkeypatch, function, call, epoch):
    # An interruption while a checkpoint is saved leaves a log that is one row ahead.
    interrupt(monkeypatch, function, call)
    status, _, err = run(*TRAIN, "--epochs", 3, "--out", "a run")
    assert (status, "Traceback" in err) == (130, False)
    if epoch is None:
        assert (err, Path("a run").exists()) == ("\ninterrupted\n", False)
        return
    assert err.splitlines()[-1] == (
        f"interrupted: a run/model.npz contains epoch {epoch} of 3. Continue with "
        "`python -m minivit train --resume --out 'a run'`"
    )
    assert training.read_progress("a run").epoch == epoch


def test_resume_trains_the_remaining_epochs(unfinished, quick):
    status, _, err = run("train", "--resume", "--out", unfinished)
    assert status == 0
    assert names_in(unfinished) == OUTPUTS
    assert [row["epoch"] for row in read_log(unfinished / "log.csv")] == [1, 2, 3]
    assert [line[:9] for line in err.splitlines()[:2]] == ["epoch 2/3", "epoch 3/3"]
    out = output_of("train", "--resume", "--out", unfinished)
    assert out == "run/model.npz is fully trained, and all files of the run are complete\n"


@pytest.mark.parametrize("function", ["plot_curves", "plot_held_out"])
def test_resume_draws_the_figures_of_a_training_interrupted_before_them(
    monkeypatch, quick, function
):
    def stop(*args):
        raise KeyboardInterrupt

    path = Path("run/model.npz")
    for _ in range(2):  # the second training replaces the figures of the first
        with monkeypatch.context() as patch:
            patch.setattr(analysis, function, stop)
            status, _, err = run(*TRAIN, "--out", "run")
        assert status == 130
        assert err.splitlines()[-1] == (
            f"interrupted: {path} contains the trained model, but the figures are missing. "
            "Continue with `python -m minivit train --resume --out run --data digits`"
        )
        before = path.read_bytes(), Path("run/log.csv").read_bytes()
        lines = run("train", "--resume", "--out", "run").out.splitlines()
        # Drawn in this order. Those of the first training are older than the model.
        missing = "curves.png, attention.png" if function == "plot_curves" else "attention.png"
        assert lines[0] == f"{path} is fully trained; missing or incomplete: {missing}"
        assert lines[-1] == "saved in run: model.npz, log.csv, steps.csv, curves.png, attention.png"
        assert names_in(Path("run")) == OUTPUTS
        assert before == (path.read_bytes(), Path("run/log.csv").read_bytes())


DAMAGES = {"missing": Path.unlink, "half": lambda path: path.write_bytes(path.read_bytes()[:50])}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["curves.png", "attention.png", "log.csv"])
def test_resume_makes_a_missing_or_damaged_file_of_a_complete_run_again(quick, name, damage):
    assert run(*TRAIN, "--epochs", 2, "--out", "run").status == 0
    path, resume = Path("run", name), ["train", "--resume", "--out", "run"]
    before, model = path.read_bytes(), Path("run/model.npz").read_bytes()
    DAMAGES[damage](path)
    status, out, _ = run(*resume)
    assert status == 0
    assert out.startswith(f"run/model.npz is fully trained; missing or incomplete: {name}\n")
    if name == "log.csv":  # the checkpoint of a complete run does not contain the seconds
        rows = [line.rpartition(b",")[0] for line in before.splitlines()]
        assert path.read_bytes().splitlines()[1:] == [row + b",nan" for row in rows[1:]]
        assert out.splitlines()[2].endswith("% held-out accuracy")
    else:
        assert path.read_bytes() == before
    assert Path("run/model.npz").read_bytes() == model
    assert output_of(*resume).endswith("is fully trained, and all files of the run are complete\n")


def test_a_figure_of_an_earlier_run_is_drawn_again(quick):
    assert run(*TRAIN, "--out", "run").status == 0
    os.utime("run/curves.png", (0, 0))
    assert "missing or incomplete: curves.png\n" in run("train", "--resume", "--out", "run").out


def test_a_training_that_is_no_better_than_chance_gives_a_warning(quick):
    _, _, err = run(*TRAIN, "--lr", 0, "--out", "run")
    assert re.fullmatch(
        r"warning: the model is no better than chance: always predicting the most frequent class "
        r"gives an accuracy of 1\d\.\d\d%\. Check the labels, train longer, or try another --lr",
        err.splitlines()[-1],
    )
    _, _, err = run(*TRAIN, "--epochs", 4, "--lr", 0.01, "--out", "run")
    assert "warning" not in err


def test_missing_figures_are_not_drawn_for_another_data_set(monkeypatch, quick):
    commands.use_few_scattered(monkeypatch, held_out=300)
    assert run(*TRAIN, "--epochs", 4, "--lr", 0.01, "--out", "run").status == 0
    Path("run/curves.png").unlink()
    message = error_of("train", "--resume", "--data", "scattered", "--out", "run")
    assert "the accuracy on the scattered digits differs from that in run/model.npz" in message
    assert not Path("run/curves.png").exists()


def test_an_interrupted_training_is_replaced_only_on_request(unfinished, quick):
    before = (unfinished / "model.npz").read_bytes()
    message = error_of(*TRAIN, "--out", unfinished)
    assert message.startswith("run contains an interrupted run. Pass --resume to continue it")
    assert (unfinished / "model.npz").read_bytes() == before
    assert run(*TRAIN, "--overwrite", "--out", unfinished).status == 0
    assert len(read_log(unfinished / "log.csv")) == 1
    assert run(*TRAIN, "--out", unfinished).status == 0  # a complete training may be replaced
    (unfinished / "model.npz").write_text("hello")
    assert "run/model.npz" in error_of(*TRAIN, "--out", unfinished)
    assert run(*TRAIN, "--overwrite", "--out", unfinished).status == 0


def test_resume_names_a_file_that_is_missing_or_damaged(unfinished):
    assert "none/model.npz" in error_of("train", "--resume", "--out", "none")
    (unfinished / "model.npz").write_text("hello")
    assert "run/model.npz" in error_of("train", "--resume", "--out", unfinished)


def test_ctrl_c_leaves_a_checkpoint_that_can_be_resumed():
    # conftest.py enables SIGINT, and the process inherits it. It cannot finish before the signal.
    words = [*TRAIN, "--epochs", 1_000_000, "--batch-size", 5, "--out", "run"]
    command = [sys.executable, "-m", "minivit", *map(str, words)]
    with subprocess.Popen(command, text=True, stderr=subprocess.PIPE) as process:
        assert process.stderr.readline().startswith("epoch 1/1000000")
        process.send_signal(signal.SIGINT)
        *_, last_line = process.stderr.read().splitlines()
    pattern = (
        r"interrupted: run/model\.npz contains epoch (\d+) of 1000000(?: and (\d+) steps of the "
    )
    epoch, steps = re.fullmatch(pattern + r"next epoch)?\. Continue with .*", last_line).groups()
    assert process.returncode == 130
    assert names_in(Path("run")) == ["log.csv", "model.npz", "steps.csv"]
    progress = training.read_progress("run")
    assert (progress.epoch, progress.batches) == (int(epoch), int(steps or 0))


# --- fine-tuning ------------------------------------------------------------------------------


@pytest.fixture
def origin():
    """Save the model to fine-tune as origin.npz, and return it."""
    return save_model("origin.npz", classes=7, hidden_head=5, dropout=0.5)


def test_fine_tuning_starts_from_the_file_with_a_new_head_and_the_recipe_for_it(calls, origin):
    assert run("train", "--from", "origin.npz").status == 0
    (call,) = calls
    fields = {"classes": 10, "hidden_head": None, "dropout": 0.0}
    assert call.model.config == dataclasses.replace(origin.config, **fields)
    before = flatten(origin.params)
    for name, leaf in flatten(call.model.params).items():
        expected = np.zeros_like(leaf) if name.startswith("head") else before[name]
        assert np.array_equal(leaf, expected), name
    assert call.recipe == training.FINE_TUNING
    assert call.out == Path("runs/digits-tuned")


def test_options_of_fine_tuning_reach_the_model_and_the_recipe(calls, origin):
    words = ["--image-size=12x16", "--heads=4", "--gelu=erf", "--norm-eps=1e-4", "--dropout=0.25"]
    words += ["--freeze", "--lr=0.25", "--seed=3"]
    status, out, _ = run("train", "--from", "origin.npz", *words)
    assert status == 0
    (call,) = calls
    c = call.model.config
    assert (c.image_size, c.heads, c.gelu, c.norm_eps) == ((12, 16), 4, "erf", 1e-4)
    assert c.dropout == 0.25
    fields = {"freeze": True, "learning_rate": 0.25, "seed": 3}
    assert call.recipe == dataclasses.replace(training.FINE_TUNING, **fields)
    assert out == (
        f"{count_parameters(call.model.params):,} parameters (90 of them trained); "
        "1,294 training images of 12 x 16 pixels, 143 validation images, 360 held-out images\n"
    )


def test_a_file_without_a_position_table_requires_the_option_positions(calls):
    model = save_model("timm.npz", positions="sincos2d", image_size=16, channels=3)
    model.save("timm.npz", layout="timm")
    with np.load("timm.npz") as archive:
        arrays = {n: a for n, a in archive.items() if n not in ("config", "pos_embed")}
    np.savez("timm.npz", **arrays)
    words = ["--data", "digits", "--image-size", 16, "--heads", 2, "--gelu", "tanh"]
    assert "'pos_embed'" in error_of("evaluate", "--weights", "timm.npz", *words)
    words += ["--positions", "sincos2d"]
    assert run("train", "--from", "timm.npz", *words).status == 0
    assert calls[0].model.config.positions == "sincos2d"
    assert "positions" not in calls[0].model.params
    d = data.resize_dataset(data.load_digits(), (16, 16), 3)
    loss = training.evaluate(model, d.held_out_images, d.held_out_labels).loss
    out = output_of("evaluate", "--weights", "timm.npz", *words)
    assert f"cross-entropy {loss:.4f} nats" in out


@pytest.mark.parametrize("freeze", [[], ["--freeze"]], ids=["all", "head"])
def test_digits_are_enlarged_and_normalised_for_a_model_of_colour_images(quick, freeze):
    save_model("origin.npz", channels=3, preprocessing="timm")
    words = ["--image-size", 12, "--preprocess", "dino", *freeze]
    assert run(*TUNE, *words, "--out", "run").status == 0
    assert names_in(Path("run")) == OUTPUTS
    model = ViT.load("run/model.npz")
    c = model.config
    assert (c.image_size, c.channels, c.preprocessing) == ((12, 12), 3, "dino")
    d = data.resize_dataset(data.load_digits(), (12, 12), 3, "dino")
    progress = training.read_progress("run")
    score = training.evaluate(model, d.held_out_images, d.held_out_labels)
    assert (progress.test_loss, progress.test_accuracy) == score
    words = ["evaluate", "--data", "digits", "--weights", "run/model.npz"]
    assert f"cross-entropy {score.loss:.4f} nats" in output_of(*words)
    assert output_of(*words) != output_of(*words, "--preprocess", "timm")


def test_an_interrupted_fine_tuning_resumes_to_the_same_bits(origin, monkeypatch, quick):
    words = [*TUNE, "--image-size", 12, "--epochs", 3, "--freeze"]
    assert run(*words, "--out", "uninterrupted").status == 0
    with monkeypatch.context() as patch:
        interrupt(patch, "evaluate", 2)
        assert run(*words, "--out", "resumed").status == 130
    assert "contains an interrupted run" in error_of(*words, "--out", "resumed")
    status, out, _ = run("train", "--resume", "--out", "resumed")
    assert status == 0
    assert "(90 of them trained)" in out
    models = (Path(folder, "model.npz").read_bytes() for folder in ("uninterrupted", "resumed"))
    assert next(models) == next(models)


def test_an_image_size_that_is_not_a_multiple_of_the_patch_size_is_an_error(origin):
    message = error_of("train", "--from", "origin.npz", "--image-size", 15)
    assert "--image-size 15 x 15 cannot be cut into patches of 2 x 2" in message
    assert not Path("runs").exists()
