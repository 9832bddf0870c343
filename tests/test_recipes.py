"""What suits each data set: the presets, how they are shown, and the commands on all of them."""

import dataclasses
import os
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import printed, run
from PIL import Image

from minivit import ViT, ViTConfig, analysis, data, flatten, training
from minivit.training.presets import FOLDER_PRESET, PRESETS, get_preset, make_recipe

NAMES = list(PRESETS)
SHAPES = {  # image size, channels, classes
    "digits": (8, 1, 10), "scattered": (24, 1, 10), "mnist": (28, 1, 10),
    "fashion-mnist": (28, 1, 10), "cifar10": (32, 3, 10), "cifar100": (32, 3, 100),
}  # fmt: skip
TINY = ["--width", 8, "--depth", 1, "--heads", 2, "--mlp-width", 8]
QUICK = [*TINY, "--epochs", 1, "--batch-size", 16, "--warmup", 0]
KINDS = ("cat", "dog", "frog")


def refused(*words):
    """The one line of a command that fails."""
    status, _, err = run(*words)
    assert status == 1
    (line,) = [line for line in err.splitlines() if not line.startswith("skipped: ")]
    assert line.startswith("minivit: error: ")
    return line


def small(name, n=20, held_out=12):
    """A data set of the shapes of a known one, of noise, its labels counting 0, 1, 2, ..."""
    size, C, K = SHAPES[name]
    rng = np.random.default_rng(len(name))
    images, others = rng.integers(0, 256, (2, max(n, held_out), size, size, C)).astype(np.uint8)
    labels = np.arange(max(n, held_out)) % K
    classes = tuple("0123456789") if "igit" in name or name in ("scattered", "mnist") else None
    classes = classes or tuple(f"class {letter}" for letter in range(1, K + 1))
    parts = (
        data.ByteImages(images[:n]),
        labels[:n],
        data.ByteImages(others[:held_out]),
        labels[:held_out],
    )
    return data.Dataset(name, *parts, classes)


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty folder to work in; the data sets are small, and nothing is downloaded."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.setitem(data.DATASETS, name, lambda n=20, name=name: small(name, n))
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """The linear model and the figures take longer than these trainings: they are only noted."""
    monkeypatch.setattr(training, "fit_logistic_regression", lambda dataset: None)
    monkeypatch.setattr(analysis, "plot_curves", lambda log, path, *_: path.touch())
    monkeypatch.setattr(analysis, "draw_held_out", lambda model, dataset, path, *_: path.touch())


@pytest.fixture
def called(monkeypatch):
    """What the training would have been called with: (model, dataset, recipe, folder)."""
    calls = []
    monkeypatch.setattr(training, "train", lambda *args, **_: calls.append(args))
    monkeypatch.setattr(import_module("minivit.commands.train"), "report", lambda *args: None)
    return calls


@pytest.fixture
def pets(shelf):
    """A folder of images by class, each class of a colour of its own; one image cannot be read."""
    for c, kind in enumerate(KINDS):
        folder = shelf / "my pets" / kind
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = np.full((12, 16, 3), 10 * i, np.uint8)
            pixels[..., c] = 250
            Image.fromarray(pixels).save(folder / f"{i}.png")
    (shelf / "my pets" / "dog" / "3.png").write_text("hello")
    return Path("my pets")


# --- the presets -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_data_set_has_a_model_for_its_images_and_recipes(name):
    config = ViTConfig(**get_preset(name).model)
    size, C, K = SHAPES[name]
    assert (config.image_size, config.channels, config.classes) == ((size, size), C, K)
    assert make_recipe(name) == training.Recipe(**PRESETS[name].recipe)
    tuning = dataclasses.replace(training.FINE_TUNING, **PRESETS[name].tuning)
    assert make_recipe(name, tuning=True) == tuning
    assert make_recipe(name, tuning=True, learning_rate=0.5).rate == 0.5


def test_a_folder_has_a_preset_whatever_it_is_called():
    assert get_preset(Path("digits")) is FOLDER_PRESET
    assert ViTConfig(**FOLDER_PRESET.model, classes=7).channels == 3
    assert make_recipe(Path("digits")) == training.Recipe(**FOLDER_PRESET.recipe)
    assert make_recipe(Path("digits"), tuning=True).optimiser == "sgd"


def test_every_data_set_has_a_preset():
    assert list(data.DATASETS) == NAMES


# --- --print-config --------------------------------------------------------------------------

GIVEN = [
    "--image-size", "56x112", "--hidden-head", 7, "--lr", 0.00217, "--no-flip", "--ema", 0.75,
    "--drop-path", 0.125, "--mixup", 0.5, "--freeze", "--threads", 3,
]  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, "my pets"])
@pytest.mark.parametrize("words", [[], GIVEN], ids=["defaults", "overrides"])
def test_a_printed_configuration_given_back_is_the_same_training(pets, called, name, words):
    words = ["train", "--data", name, *TINY, *words]
    text = printed(*words, "--print-config")
    Path("config.txt").write_text(text)
    assert called == []
    assert run(*words)[0] == 0
    assert run("train", "@config.txt")[0] == 0
    assert run("train", *shlex.split(text, comments=True))[0] == 0
    (model, dataset, how, out), *others = called
    for model_, dataset_, how_, out_ in others:
        assert (model_.config, how_, out_) == (model.config, how, out)
        assert dataset_.name == dataset.name
    size = sum(leaf.size for leaf in flatten(model.params).values())
    assert text.splitlines()[-1] == f"# parameters {size:,}"
    assert ("# --threads None" if words[-1] == 8 else "--threads 3") in text.splitlines()


def test_a_printed_configuration_names_every_field_once(shelf):
    lines = printed("train", "--data", "cifar10", "--print-config").splitlines()
    names = [line.removeprefix("# ").split()[0].removeprefix("--no-") for line in lines]
    names = [name.removeprefix("--").replace("-", "_") for name in names]
    fields = [field.name for kind in (ViTConfig, training.Recipe) for field in
              dataclasses.fields(kind)]  # fmt: skip
    fields = ["preprocess" if name == "preprocessing" else name for name in fields]
    assert sorted(names) == sorted(
        [*fields, "data", "out", "threads", "device", "precision", "parameters"]
    )
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
def test_what_changes_nothing_is_a_remark_and_a_note(shelf, called, option, off, on):
    plain, line = ["train", "--data", "mnist", "--print-config"], " ".join(map(str, option))
    status, out, err = run(*plain, *option, *off)
    assert (status, err) == (0, f"note: {option[0]} changes nothing without {on[0]}\n")
    assert f"# {line}" in out.splitlines()
    status, out, err = run(*plain, *option, *on)
    assert (status, err) == (0, "")
    assert line in out.splitlines()
    assert run(*plain, *off)[2] == ""


def test_what_is_given_after_a_file_of_options_counts(shelf, called):
    Path("config.txt").write_text(printed("train", "--data", "mnist", "--print-config"))
    assert run("train", "@config.txt", *TINY, "--epochs", 3, "--flip")[0] == 0
    ((model, _, how, _),) = called
    assert how == make_recipe("mnist", epochs=3, flip=True)
    assert model.config.width == 8


def test_a_file_of_options_that_is_none_is_bad_usage(shelf):
    status, _, err = run("train", "@none.txt")
    assert status == 2
    assert "none.txt" in err.splitlines()[-1]


def test_printing_reads_no_image_writes_nothing_and_minds_no_unfinished_training(pets, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("nothing is to be read")

    for name in NAMES:
        monkeypatch.setitem(data.DATASETS, name, refuse)
    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(training, "is_unfinished", lambda folder: True)
    assert "# classes 100\n" in printed("train", "--data", "cifar100", "--print-config")
    text = printed("train", "--data", pets, "--print-config")
    assert "--data 'my pets'\n--out 'runs/my pets'\n" in text
    assert "# classes 3\n" in text
    assert os.listdir() == ["my pets"]


OF_A_FILE = ["--image-size=16", "--resize=bicubic", "--gelu=erf", "--dropout=0.25",
             "--drop-path=0.5"]  # fmt: skip


@pytest.mark.parametrize("words", [[], OF_A_FILE], ids=["defaults", "overrides"])
def test_a_printed_fine_tuning_given_back_is_the_same(shelf, called, words):
    shape = {"width": 8, "depth": 1, "heads": 2, "mlp_width": 8, "drop_path": 0.25}
    old = ViTConfig(**get_preset("cifar10").model | shape, norm_eps=1e-5)
    ViT.create(old).save("a model.npz")
    words = ["train", "--from", "a model.npz", "--data", "fashion-mnist", *words]
    text = printed(*words, "--print-config")
    assert "--from 'a model.npz'\n" in text
    assert "\n# width 8\n" in text
    Path("config.txt").write_text(text)
    assert run(*words)[0] == run("train", "@config.txt")[0] == 0
    (one, _, how, out), (other, _, how_, out_) = called
    assert (one.config, how, out) == (other.config, how_, out_)
    assert how == make_recipe("fashion-mnist", tuning=True)
    assert out == Path("runs/fashion-mnist-tuned")
    assert one.config.drop_path == (0.5 if len(words) > 5 else 0.0)
    for name, leaf in flatten(one.params).items():
        assert np.array_equal(leaf, flatten(other.params)[name]), name


def test_an_interrupted_training_has_its_settings_already(shelf):
    status, _, err = run("train", "--resume", "--print-config")
    assert status == 2
    assert "--print-config is of a new training" in err.splitlines()[-1]


# --- the commands on the known data sets -----------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_data_set_is_trained_on_by_its_own_recipe(shelf, called, name):
    assert run("train", "--data", name)[0] == 0
    ((model, dataset, how, out),) = called
    assert model.config == ViTConfig(**PRESETS[name].model)
    assert (dataset.name, how, out) == (name, make_recipe(name), Path("runs") / name)


def test_an_interruption_before_the_end_is_gone_on_with_on_the_same_data_alone(
    shelf, quick, monkeypatch
):
    loop = import_module("minivit.training.loop")
    with monkeypatch.context() as patch:

        def stop(*args):
            raise KeyboardInterrupt

        patch.setattr(loop, "evaluate", stop)
        words = ["train", "--data", "cifar10", *QUICK, "--epochs", 2]
        status, _, err = run(*words)
        assert (status, err.splitlines()[-1]) == (
            130, "stopped: runs/cifar10/model.npz holds epoch 0; --resume goes on"
        )  # fmt: skip
    assert "--resume it, or --overwrite" in refused(*words)
    going_on = ["train", "--resume", "--out", "runs/cifar10"]
    assert "on the cifar10, not on the digits" in refused(*going_on, "--data", "digits")
    line = refused(*going_on, "--data", "cifar100")
    assert "model.npz is of 10 classes, and the cifar100 are of 100: say with --data" in line
    assert run(*going_on)[0] == 0  # it knows on what it began
    assert run(*words, "--overwrite")[0] == 0


def test_names_of_classes_are_kept_beside_the_model_and_used(shelf, quick):
    assert run("train", "--data", "cifar10", *QUICK)[0] == 0
    kept = Path("runs/cifar10/classes.txt")
    names = [f"class {c}" for c in range(1, 11)]
    assert kept.read_text().splitlines() == names
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save("black.png")
    words = ["predict", "--weights", "runs/cifar10/model.npz", "black.png", "--top", 10]
    first, *rest = printed(*words).splitlines()
    assert first == "black.png"
    assert sorted(line.split("  ")[-1] for line in rest) == sorted(names)
    Path("others.txt").write_text("".join(f"{c}\n" for c in "abcdefghij"))
    assert "  a\n" in printed(*words, "--labels", "others.txt")
    kept.rename("classes.txt")
    Path("runs/cifar10/model.npz").rename("other.npz")  # what lies beside is not of it
    assert "class" not in printed("predict", "--weights", "other.npz", "black.png")
    kept.write_text("of another training\n")
    assert run("train", "--data", "mnist", *QUICK, "--out", "runs/cifar10")[0] == 0
    assert not kept.exists()  # the classes are numbers


def test_the_end_of_a_training_tells_which_files_it_left(shelf, quick):
    assert printed_end("cifar10") == (
        "in runs/cifar10: model.npz, classes.txt, log.csv, curves.png, attention.png"
    )
    assert printed_end("mnist") == "in runs/mnist: model.npz, log.csv, curves.png, attention.png"


def printed_end(name):
    status, out, _ = run("train", "--data", name, *QUICK)
    assert status == 0
    assert "logistic regression" not in out  # there is no number for it here
    return out.splitlines()[-1]


@pytest.mark.parametrize(
    ("size", "C", "K", "found"),
    [
        (28, 1, 10, None), (32, 3, 10, "cifar10"), (32, 3, 100, "cifar100"), (32, 3, 7, None),
        (32, 3, None, None), (8, 1, 10, "digits"), (24, 1, 10, "scattered"), (8, 3, 10, None),
    ],
)  # fmt: skip
def test_without_a_name_the_one_data_set_that_fits_is_taken(shelf, size, C, K, found):
    shape = {"image_size": size, "patch_size": 4, "channels": C, "classes": K}
    model = ViT.create(ViTConfig(**shape, width=8, depth=1, heads=2, mlp_width=8))
    model.save("model.npz")
    words = ["evaluate", "--weights", "model.npz"]
    if found is None:
        line = refused(*words)
        assert f"takes images of {size} x {size} x {C}: say with --data" in line
        return
    dataset = small(found)
    score = training.evaluate(model, dataset.held_out_images, dataset.held_out_labels)
    assert f"cross-entropy {score.loss:.4f} nats" in printed(*words)


def test_without_weights_those_are_evaluated_that_a_training_on_the_data_left(shelf, quick):
    line = refused("evaluate", "--data", "cifar10")
    assert "no runs/cifar10/model.npz yet: `python -m minivit train --data cifar10` makes" in line
    assert run("train", "--data", "cifar10", *QUICK)[0] == 0
    named = ["--weights", "runs/cifar10/model.npz"]
    assert printed("evaluate", "--data", "cifar10") == printed("evaluate", *named)


def test_coloured_images_are_no_grey_model_s(shelf):
    ViT.create(ViTConfig(**get_preset("mnist").model)).save("model.npz")
    line = refused("evaluate", "--weights", "model.npz", "--data", "cifar10")
    assert "have 3 channels: only grey images can be given 1" in line


def test_few_shots_of_many_images_are_drawn_from_all_over(shelf, monkeypatch):
    evaluate = import_module("minivit.commands.evaluate")
    ViT.create(ViTConfig(**get_preset("cifar10").model)).save("model.npz")
    model, seen = ViT.load("model.npz"), []
    monkeypatch.setattr(evaluate, "POOL", 40)
    monkeypatch.setattr(
        training, "evaluate_few_shot",
        lambda features, labels, *rest: seen.append((features, labels)) or np.zeros((1, 3)),
    )  # fmt: skip
    dataset = small("cifar10", n=100)
    dataset = dataset._replace(labels=np.arange(100))
    evaluate.report_few_shot(model, dataset, [1])
    ((features, labels),) = seen
    assert len(set(labels.tolist())) == 40
    assert labels.max() > 60
    np.testing.assert_array_equal(features, model.features(dataset.images[labels]))


# --- the commands on a folder ----------------------------------------------------------------


def test_a_folder_of_images_is_trained_on_and_what_cannot_be_read_is_counted(pets):
    words = ["train", "--data", pets, *QUICK, "--image-size", 16]
    status, out, err = run(*words)
    assert status == 0, err
    assert err.splitlines()[0].startswith("skipped: my pets/dog/3.png ")
    lines = out.splitlines()
    assert lines[0].endswith("; 27 images of 16 x 16 to train on, 3 held out")
    assert "1 of 30 images could not be read" in lines
    folder = Path("runs/my pets")
    assert (folder / "classes.txt").read_text() == "cat\ndog\nfrog\n"
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")
    model = folder / "model.npz"
    log = training.read_log(folder / "log.csv")
    result = printed("evaluate", "--data", pets, "--weights", model).splitlines()
    assert result == [
        f"{round(3 * log[-1]['held_out_accuracy'])} of 3 held-out images right: "
        f"{log[-1]['held_out_accuracy']:.2%}",
        f"cross-entropy {log[-1]['held_out_loss']:.4f} nats",
    ]
    text = printed("predict", "--weights", model, pets / "cat" / "1.png")
    assert sorted(line.split()[-1] for line in text.splitlines()[1:]) == sorted(KINDS)
    status, out, err = run("evaluate", "--data", pets, "--weights", model, "--shots", 5)
    assert status == 0
    assert out.startswith("5 of each class: ")
    assert "skipped: my pets/dog/3.png" in err


def test_held_out_images_that_cannot_be_read_are_not_scored_and_counted(pets):
    ViT.create(ViTConfig(image_size=16, patch_size=8, classes=3, width=8, depth=1, heads=2,
                         mlp_width=8)).save("model.npz")  # fmt: skip
    for i in range(10):  # all the dogs
        (pets / "dog" / f"{i}.png").write_text("hello")
    status, out, err = run("evaluate", "--data", pets, "--weights", "model.npz")
    assert (status, len(err.splitlines())) == (0, 1)
    first, _, last = out.splitlines()
    assert " of 2 held-out images right: " in first
    assert last == "1 of 30 images could not be read"


@pytest.fixture
def unfinished(pets, quick, monkeypatch):
    """Where a training on the folder was interrupted in the second of two epochs."""
    loop = import_module("minivit.training.loop")
    real, calls = loop.evaluate, []

    def stop(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", stop)
        assert run("train", "--data", pets, *QUICK, "--epochs", 2)[0] == 130
    return Path("runs/my pets")


def test_another_folder_is_not_gone_on_with(pets, unfinished):
    pets.rename("others")
    line = refused("train", "--resume", "--data", "others", "--out", unfinished)
    assert "was training on the images in my pets, not on the images in others" in line
    line = refused("train", "--resume", "--out", unfinished)
    assert f"images in {pets.resolve()}, which is no folder now: say with --data" in line
    Path("elsewhere").mkdir()
    Path("others").rename("elsewhere" / pets)
    assert run("train", "--resume", "--data", "elsewhere" / pets)[0] == 0


def test_a_folder_is_found_again_from_wherever_one_is(unfinished, tmp_path, monkeypatch):
    monkeypatch.chdir(unfinished)
    assert run("train", "--resume", "--out", ".")[0] == 0


def taken_away(pets):
    (pets / "cat" / "1.png").unlink()


def renamed(pets):
    (pets / "cat" / "1.png").rename(pets / "cat" / "10.png")


def moved(pets):
    (pets / "cat" / "9.png").rename(pets / "dog" / "99.png")


def called_otherwise(pets):
    (pets / "cat").rename(pets / "cats")


@pytest.mark.parametrize("change", [taken_away, renamed, moved, called_otherwise])
def test_a_folder_that_has_changed_is_not_gone_on_with(pets, unfinished, change):
    before = (unfinished / "log.csv").read_bytes()
    change(pets)
    line = refused("train", "--resume", "--data", pets)
    assert "began with other files or labels than the images in my pets have now" in line
    assert (unfinished / "log.csv").read_bytes() == before


def test_a_score_on_classes_of_other_names_comes_with_a_note(pets, quick):
    assert run("train", "--data", pets, *QUICK)[0] == 0
    words = ["evaluate", "--data", pets, "--weights", "runs/my pets/model.npz"]
    assert "note: " not in run(*words)[2]
    (pets / "cat").rename(pets / "ant")
    status, _, err = run(*words)
    assert status == 0
    (note,) = [line for line in err.splitlines() if line.startswith("note: ")]
    assert note.endswith("call them otherwise, than runs/my pets/classes.txt")


def test_attention_of_a_folder_names_its_classes(pets, monkeypatch):
    drawing, drawn = import_module("minivit.analysis.plots.model"), []
    monkeypatch.setattr(drawing, "plot_overlays", lambda *arguments: drawn.append(arguments))
    model = ViT.create(ViTConfig(image_size=16, patch_size=8, classes=3, width=8, depth=1, heads=2,
                                 mlp_width=8))  # fmt: skip
    model.save("model.npz")
    assert run("attention", "--data", pets, "--weights", "model.npz")[0] == 0
    ((images, _, _, _, titles, *_),) = drawn
    assert images.shape == (3, 16, 16, 3)
    assert [title.partition(",")[0] for title in titles] == list(KINDS)
    for i in range(10):
        (pets / "dog" / f"{i}.png").write_text("hello")
    assert run("attention", "--data", pets, "--weights", "model.npz")[0] == 0
    images, _, _, _, titles, *_ = drawn[1]
    assert len(images) == 2
    assert [title.partition(",")[0] for title in titles] == ["cat", "frog"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "my files has no classes"),
        (lambda folder: (folder / "cat").mkdir(), "cat has no images"),
    ],
    ids=["no classes", "no images"],
)
@pytest.mark.parametrize("option", [[], ["--print-config"]], ids=["train", "print"])
def test_a_folder_that_is_no_data_set_is_a_plain_line(shelf, make, words, option):
    Path("my files").mkdir()
    make(Path("my files"))
    assert words in refused("train", "--data", "my files", *option)
    assert os.listdir() == ["my files"]


def test_a_folder_that_has_the_name_of_a_data_set_is_named_by_a_path(shelf, called):
    Path("mnist").mkdir()
    assert run("train", "--data", "mnist")[0] == 0
    assert called[0][1].name == "mnist"
    assert "mnist has no classes" in refused("train", "--data", "./mnist")
    for kind in KINDS:
        Path("mnist", kind).mkdir()
        for i in range(2):
            Image.new("L", (8, 8)).save(f"mnist/{kind}/{i}.png")
    assert printed("train", "--data", "./mnist", "--print-config").startswith("--data ./mnist\n")
    assert "`python -m minivit train --data ./mnist`" in refused("evaluate", "--data", "./mnist")


def test_a_folder_of_no_name_is_not_the_one_where_one_is(pets):
    status, _, err = run("train", "--data", "")
    assert (status, err.splitlines()[-1].split("; ")[-1]) == (2, "there is no folder of no name")
