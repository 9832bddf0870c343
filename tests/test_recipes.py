"""Presets, `--print-config`, and the commands on every data set and on a folder of images."""

import dataclasses
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers import commands
from helpers.commands import QUICK, TINY, error_of, output_of, run
from helpers.models import same_bits
from helpers.trainings import interrupt
from PIL import Image

from minivit import ViT, ViTConfig, data, training
from minivit.cli import evaluate as evaluate_command
from minivit.training import PRESETS, get_preset, make_recipe
from minivit.training.presets import FOLDER_PRESET
from minivit.tree import count_parameters

calls, quick = commands.calls, commands.quick  # fixtures
SHAPES = {  # image size, channels, classes
    "digits": (8, 1, 10), "scattered": (24, 1, 10), "mnist": (28, 1, 10),
    "fashion-mnist": (28, 1, 10), "cifar10": (32, 3, 10), "cifar100": (32, 3, 100),
}  # fmt: skip
KINDS = ("cat", "dog", "frog")
FAST = [*QUICK, "--batch-size", 16]


def noise(name, n=20, held_out=12):
    """Return a data set of noise with the shape of another. Its labels are 0, 1, 2, ..."""
    size, C, K = SHAPES[name]
    count = max(n, held_out)
    rng = np.random.default_rng(len(name))
    images, test = rng.integers(0, 256, (2, count, size, size, C)).astype(np.uint8)
    labels, numbered = np.arange(count) % K, name in ("digits", "scattered", "mnist")
    classes = tuple(str(c) if numbered else f"class {c}" for c in range(K))
    parts = data.ByteImages(images[:n]), labels[:n], data.ByteImages(test[:held_out])
    return data.Dataset(name, *parts, labels[:held_out], classes)


@pytest.fixture(autouse=True)
def small_data(tmp_path, monkeypatch):
    """Provide an empty working directory, and small data sets that are not downloaded."""
    monkeypatch.chdir(tmp_path)
    for name in SHAPES:
        monkeypatch.setitem(data.DATASETS, name, lambda n=20, name=name: noise(name, n))


@pytest.fixture
def pets():
    """Return a folder of images by class, one of which cannot be read."""
    for c, kind in enumerate(KINDS):
        folder = Path("my pets", kind)
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = np.full((12, 16, 3), 10 * i, np.uint8)
            pixels[..., c] = 250
            Image.fromarray(pixels).save(folder / f"{i}.png")
    Path("my pets/dog/3.png").write_text("hello")
    return Path("my pets")


def save_small(path, preset=None, **fields):
    """Save a model with the fields of a preset."""
    fields = (get_preset(preset).model if preset else {}) | fields
    model = ViT.create(ViTConfig(**fields | {"width": 8, "depth": 1, "heads": 2, "mlp_width": 8}))
    model.save(path)
    return model


# --- presets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_each_data_set_is_trained_with_its_preset(calls, name):
    assert list(data.DATASETS) == list(PRESETS) == list(SHAPES)
    assert run("train", "--data", name).status == 0
    (call,) = calls
    config = ViTConfig(**PRESETS[name].model)
    size, C, K = SHAPES[name]
    assert (config.image_size, config.channels, config.classes) == ((size, size), C, K)
    recipe = training.Recipe(**PRESETS[name].recipe)
    assert (call.model.config, call.recipe) == (config, recipe)
    assert (call.dataset.name, call.out, call.threads) == (name, Path("runs", name), None)
    tuning = dataclasses.replace(training.FINE_TUNING, **PRESETS[name].fine_tuning)
    assert make_recipe(name, fine_tuning=True) == tuning
    assert make_recipe(name, fine_tuning=True, learning_rate=0.5).learning_rate == 0.5


def test_a_folder_has_its_own_preset_even_with_the_name_of_a_data_set(calls):
    assert get_preset(Path("digits")) is FOLDER_PRESET
    assert make_recipe(Path("digits")) == training.Recipe(**FOLDER_PRESET.recipe)
    for kind in KINDS:
        Path("mnist", kind).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (8, 8)).save(f"mnist/{kind}/{i}.png")
    for source, channels in (("mnist", 1), ("./mnist", 3)):
        assert run("train", "--data", source).status == 0
        assert calls[-1].model.config.channels == channels
    printed = output_of("train", "--data", "./mnist", "--print-config")
    assert printed.startswith("--data ./mnist\n")
    assert "`python -m minivit train --data ./mnist`" in error_of("evaluate", "--data", "./mnist")


# --- --print-config ---------------------------------------------------------------------------

OVERRIDES = [
    "--image-size", "56x112", "--hidden-head", 7, "--lr", 0.00217, "--no-flip", "--ema", 0.75,
    "--drop-path", 0.125, "--mixup", 0.5, "--freeze", "--threads", 3,
]  # fmt: skip


@pytest.mark.parametrize("name", [*SHAPES, "my pets"])
@pytest.mark.parametrize("words", [[], OVERRIDES], ids=["defaults", "overrides"])
def test_a_printed_configuration_reproduces_the_training(pets, calls, name, words):
    words = ["train", "--data", name, *TINY, *words]
    text = output_of(*words, "--print-config")
    Path("config.txt").write_text(text)
    assert calls == []
    printed = ["train", *shlex.split(text, comments=True)]
    for command in (words, ["train", "@config.txt"], printed):
        assert run(*command).status == 0
    original = calls[0]
    for call in calls[1:]:
        assert (call.model.config, call.recipe) == (original.model.config, original.recipe)
        assert (call.out, call.threads) == (original.out, original.threads)
        assert call.dataset.name == original.dataset.name
    size = count_parameters(original.model.params)
    assert text.splitlines()[-1] == f"# parameters {size:,}"
    assert run("train", "@config.txt", "--epochs", 3).status == 0  # the last option wins
    assert calls[-1].recipe == dataclasses.replace(original.recipe, epochs=3)


def test_a_printed_configuration_contains_every_field_once():
    lines = output_of("train", "--data", "cifar10", "--print-config").splitlines()
    names = [line.removeprefix("# ").split()[0].removeprefix("--no-") for line in lines]
    names = [name.removeprefix("--").replace("-", "_") for name in names]
    fields = [f.name for c in (ViTConfig, training.Recipe) for f in dataclasses.fields(c)]
    renamed = {"preprocessing": "preprocess", "learning_rate": "lr"}
    fields = [renamed.get(name, name) for name in fields]
    others = ["data", "out", "threads", "max_pixels", "device", "precision", "parameters"]
    assert sorted(names) == sorted(fields + others)
    for line in ("--data cifar10", "--out runs/cifar10", "--seed 0", "--image-size 32", "--flip",
                 "# channels 3", "# classes 10", "# --hidden-head None"):  # fmt: skip
        assert line in lines


@pytest.mark.parametrize(
    ("option", "off", "on"),
    [
        (["--randaugment-magnitude", 3.5], ["--randaugment", 0], ["--randaugment", 1]),
        (["--stem-width", 32], ["--stem", "none"], ["--stem", "1"]),
    ],
)
def test_an_option_without_effect_is_a_comment_and_gives_a_note(option, off, on):
    words, line = ["train", "--data", "mnist", "--print-config"], " ".join(map(str, option))
    status, out, err = run(*words, *option, *off)
    assert (status, err) == (0, f"note: {option[0]} has no effect without {on[0]}\n")
    assert f"# {line}" in out.splitlines()
    assert line in output_of(*words, *option, *on).splitlines()
    assert run(*words, *off).err == ""


def test_printing_reads_no_images_and_writes_nothing(pets, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("images are read")

    for name in SHAPES:
        monkeypatch.setitem(data.DATASETS, name, fail)
    monkeypatch.setattr(Image, "open", fail)
    monkeypatch.setattr(training, "read_progress", fail)
    assert "# classes 100\n" in output_of("train", "--data", "cifar100", "--print-config")
    text = output_of("train", "--data", pets, "--print-config")
    assert "--data 'my pets'\n--out 'runs/my pets'\n" in text
    assert "# classes 3\n" in text
    assert os.listdir() == ["my pets"]


FINE_TUNING = ["--image-size=16", "--resize=bicubic", "--gelu=erf", "--dropout=0.25",
               "--drop-path=0.5"]  # fmt: skip


@pytest.mark.parametrize("words", [[], FINE_TUNING], ids=["defaults", "overrides"])
def test_a_printed_configuration_reproduces_a_fine_tuning(calls, words):
    save_small("a model.npz", "cifar10", drop_path=0.25, norm_eps=1e-5)
    words = ["train", "--from", "a model.npz", "--data", "fashion-mnist", *words]
    text = output_of(*words, "--print-config")
    assert "--from 'a model.npz'\n" in text
    assert "\n# width 8\n" in text
    Path("config.txt").write_text(text)
    assert run(*words).status == run("train", "@config.txt").status == 0
    original, call = calls
    assert (call.model.config, call.recipe) == (original.model.config, original.recipe)
    assert call.recipe == make_recipe("fashion-mnist", fine_tuning=True)
    assert call.out == original.out == Path("runs/fashion-mnist-tuned")
    assert call.model.config.drop_path == (0.5 if len(words) > 5 else 0.0)
    assert same_bits(call.model.params, original.model.params)


# --- the data sets ----------------------------------------------------------------------------


def test_resume_finds_the_data_set_of_the_training_and_rejects_others(quick, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, "evaluate", 1)
        assert run("train", "--data", "cifar10", *FAST, "--epochs", 2).status == 130
    words = ["train", "--resume", "--out", "runs/cifar10"]
    assert "on the cifar10, not on the digits" in error_of(*words, "--data", "digits")
    message = error_of(*words, "--data", "cifar100")
    assert "runs/cifar10/model.npz has 10 classes, but the cifar100 have 100 classes" in message
    assert run(*words).status == 0


def test_class_names_are_saved_with_the_model_and_used_by_predict(quick):
    words = ["train", "--data", "cifar10", *FAST]
    saved = "saved in runs/cifar10: model.npz, classes.txt, log.csv, steps.csv, curves.png, "
    saved += "attention.png\n"
    status, out, _ = run(*words)
    assert status == 0
    assert out.endswith(saved)
    names, path = [f"class {c}" for c in range(10)], Path("runs/cifar10/classes.txt")
    assert path.read_text().splitlines() == names
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save("black.png")
    words = ["predict", "--weights", "runs/cifar10/model.npz", "black.png", "--top", 10]
    file, *lines = output_of(*words).splitlines()
    assert file == "black.png"
    assert sorted(line.split("  ")[-1] for line in lines) == sorted(names)
    Path("labels.txt").write_text("".join(f"{c}\n" for c in "abcdefghij"))
    assert "  a\n" in output_of(*words, "--labels", "labels.txt")
    path.rename("classes.txt")
    Path("runs/cifar10/model.npz").rename("other.npz")  # the names belong to a model.npz only
    assert "class" not in output_of("predict", "--weights", "other.npz", "black.png")
    path.write_text("names of an earlier training\n")
    assert run("train", "--data", "mnist", *FAST, "--out", "runs/cifar10").status == 0
    assert not path.exists()  # the classes of MNIST are numbers


@pytest.mark.parametrize(
    ("size", "C", "K", "name"),
    [
        (28, 1, 10, None), (32, 3, 10, "cifar10"), (32, 3, 100, "cifar100"), (32, 3, 7, None),
        (32, 3, None, None), (8, 1, 10, "digits"), (24, 1, 10, "scattered"), (8, 3, 10, None),
    ],
)  # fmt: skip
def test_evaluate_uses_the_only_matching_data_set(size, C, K, name):
    model = save_small("model.npz", image_size=size, patch_size=4, channels=C, classes=K)
    words = ["evaluate", "--weights", "model.npz"]
    if name is None:
        assert f"takes images of {size} x {size} x {C}. The data set cannot" in error_of(*words)
        return
    dataset = noise(name)
    score = training.evaluate(model, dataset.held_out_images, dataset.held_out_labels)
    assert f"cross-entropy {score.loss:.4f} nats" in output_of(*words)


def test_evaluate_uses_the_model_trained_on_the_data_set(quick):
    message = error_of("evaluate", "--data", "cifar10")
    assert "runs/cifar10/model.npz does not exist. Train a model with `python -m " in message
    assert "train --data cifar10`" in message
    assert run("train", "--data", "cifar10", *FAST).status == 0
    words = ["evaluate", "--weights", "runs/cifar10/model.npz"]
    assert output_of("evaluate", "--data", "cifar10") == output_of(*words)


def test_few_shots_are_drawn_at_random_from_many_images(monkeypatch):
    model, calls = save_small("model.npz", "cifar10"), []
    monkeypatch.setattr(evaluate_command, "MAX_IMAGES", 40)
    record = lambda *args: calls.append(args[:2]) or np.zeros((1, 3))  # noqa: E731
    monkeypatch.setattr(training, "evaluate_few_shot", record)
    dataset = noise("cifar10", n=100)._replace(labels=np.arange(100))
    evaluate_command.evaluate_shots(model, dataset, [1])
    ((features, labels),) = calls
    assert len(set(labels.tolist())) == 40
    assert labels.max() > 60
    np.testing.assert_array_equal(features, model.features(dataset.images[labels]))


# --- a folder of images -----------------------------------------------------------------------


def test_the_commands_count_unreadable_images_of_a_folder(pets):
    status, out, err = run("train", "--data", pets, *FAST, "--image-size", 16)
    assert status == 0
    assert err.splitlines()[0].startswith("skipped: my pets/dog/3.png ")
    lines = out.splitlines()
    assert lines[0].endswith(
        "; 24 training images of 16 x 16 pixels, 3 validation images, 3 held-out images"
    )
    assert "1 of 30 images could not be read" in lines
    folder = Path("runs/my pets")
    assert (folder / "classes.txt").read_text() == "cat\ndog\nfrog\n"
    model = folder / "model.npz"
    progress = training.read_progress(folder)
    accuracy = progress.test_accuracy
    assert output_of("evaluate", "--data", pets, "--weights", model).splitlines() == [
        f"{accuracy:.2%} held-out accuracy ({round(3 * accuracy)} of 3 images)",
        f"cross-entropy {progress.test_loss:.4f} nats",
    ]
    lines = output_of("predict", "--weights", model, pets / "cat/1.png").splitlines()
    assert sorted(line.split()[-1] for line in lines[1:]) == sorted(KINDS)
    status, out, err = run("evaluate", "--data", pets, "--weights", model, "--shots", 5)
    assert status == 0
    assert out.startswith("5 per class: ")
    assert "skipped: my pets/dog/3.png" in err
    for i in range(10):
        (pets / "dog" / f"{i}.png").write_text("hello")
    out = run("evaluate", "--data", pets, "--weights", model).out
    assert " of 2 images)" in out
    assert out.endswith("1 of 30 images could not be read\n")
    assert run("attention", "--data", pets, "--weights", model).status == 0


@pytest.fixture
def unfinished(pets, quick, monkeypatch):
    """Return the output of a training on a folder, interrupted in the second of two epochs."""
    with monkeypatch.context() as patch:
        interrupt(patch, "evaluate", 2)
        assert run("train", "--data", pets, *FAST, "--epochs", 2).status == 130
    return Path("runs/my pets").resolve()


def test_resume_finds_the_folder_from_another_working_directory(unfinished, monkeypatch):
    monkeypatch.chdir(unfinished)
    assert run("train", "--resume", "--out", ".").status == 0


def test_resume_accepts_a_folder_that_was_moved_but_no_other(pets, unfinished):
    pets.rename("others")
    words = ["train", "--resume", "--out", unfinished]
    message = error_of(*words, "--data", "others")
    assert "was trained on the images in my pets, not on the images in others" in message
    assert f"images in {pets.resolve()}, which no longer exists" in error_of(*words)
    Path("elsewhere").mkdir()
    Path("others").rename("elsewhere" / pets)
    assert run("train", "--resume", "--data", "elsewhere" / pets).status == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda pets: (pets / "cat/1.png").unlink(),
        lambda pets: (pets / "cat/1.png").rename(pets / "cat/10.png"),
        lambda pets: (pets / "cat/9.png").rename(pets / "dog/99.png"),
        lambda pets: (pets / "cat").rename(pets / "cats"),
    ],
    ids=["file removed", "file renamed", "file in another class", "class renamed"],
)
def test_resume_rejects_a_folder_that_has_changed(pets, unfinished, change):
    before = (unfinished / "log.csv").read_bytes()
    change(pets)
    message = error_of("train", "--resume", "--data", pets)
    assert (
        "the files or labels of the images in my pets have changed since the run started" in message
    )
    assert (unfinished / "log.csv").read_bytes() == before


def test_evaluate_prints_a_note_if_the_class_names_differ(pets, quick):
    assert run("train", "--data", pets, *FAST).status == 0
    words = ["evaluate", "--data", pets, "--weights", "runs/my pets/model.npz"]
    assert run(*words).err == ""
    (pets / "cat").rename(pets / "ant")
    status, _, err = run(*words)
    assert status == 0
    assert err == (
        "note: the class names of the images in my pets differ from those of "
        "runs/my pets/model.npz\n"
    )


@pytest.mark.parametrize("classes", [[], ["cat"]], ids=["no classes", "no images"])
@pytest.mark.parametrize("option", [[], ["--print-config"]], ids=["train", "print"])
def test_a_folder_without_images_by_class_is_an_error(classes, option):
    for name in ("", *classes):
        Path("my files", name).mkdir()
    message = error_of("train", "--data", "my files", *option)
    assert message.startswith("my files/cat has no images" if classes else "my files has no class")
    assert os.listdir() == ["my files"]
