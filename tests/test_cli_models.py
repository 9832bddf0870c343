"""The commands that use a trained model: `evaluate`, `predict` and `attention`."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.commands import error_of, output_of, run, save_model, use_few_scattered
from PIL import Image

from minivit import ViT, analysis, data, layers, training

COLOUR = {"image_size": (16, 24), "channels": 3, "classes": 5, "preprocessing": "dino"}
NAMES = ["tench", "great white shark", "crane", "tissue, toilet", "ox"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Provide the working directory with two models, digits, a photograph and class names."""
    monkeypatch.chdir(tmp_path)
    save_model("model.npz")
    save_model("colour.npz", **COLOUR)
    ink = (data.load_digits().held_out_images[:2, ..., 0] + 1) * 127.5
    for i, image in enumerate(ink.astype(np.uint8)):
        Image.fromarray(image).save(f"light{i}.png")
        Image.fromarray(255 - image).save(f"dark{i}.png")
    pixels = np.random.default_rng(3).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("photo.png")
    Path("labels.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path


# --- evaluate ---------------------------------------------------------------------------------


def test_evaluate_resizes_the_data_set_for_the_model():
    model = save_model("large.npz", image_size=16, channels=3)
    words = ["evaluate", "--weights", "large.npz"]
    message = error_of(*words)
    assert message.startswith("large.npz takes images of 16 x 16 x 3")
    assert message.endswith("Select one with --data")
    d = data.resize_dataset(data.load_digits(), (16, 16), 3)
    score = training.evaluate(model, d.held_out_images, d.held_out_labels)
    out = output_of(*words, "--data", "digits")
    assert f"cross-entropy {score.loss:.4f} nats" in out
    assert output_of(*words, "--data", "digits", "--image-size", 32) != out


@pytest.mark.parametrize(
    ("classes", "has"), [(None, "has no classifier"), (5, "has 5 classes")], ids=str
)
def test_a_model_without_the_classes_of_the_data_set_has_a_few_shot_accuracy(classes, has):
    model = save_model("other.npz", classes=classes)
    words = ["evaluate", "--weights", "other.npz"]
    message = error_of(*words)
    assert f"other.npz {has}, but the digits have 10 classes" in message
    assert "train --from" in message
    d = data.load_digits()
    features, test = model.features(d.images), model.features(d.held_out_images)
    found = training.evaluate_few_shot(features, d.labels, test, d.held_out_labels, shots=(1, 10))
    assert output_of(*words, "--shots", 1, 10).splitlines() == [
        f"{n} per class: {row.mean():.2%} held-out accuracy "
        f"({row.min():.2%} to {row.max():.2%} in 3 draws)"
        for n, row in zip((1, 10), found, strict=True)
    ]


# --- predict ----------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [1, 3, 99])
def test_predict_prints_the_most_likely_classes(top):
    files = ["light0.png", "light1.png"]
    images = np.stack([data.read_image(file, (8, 8), 1) for file in files])
    probabilities, _ = layers.softmax(ViT.load("model.npz")(images))
    lines = []
    for file, p in zip(files, probabilities, strict=True):
        best = sorted(range(10), key=p.__getitem__, reverse=True)[:top]
        lines.append(f"{file}: " + ", ".join(f"{c} ({p[c]:.1%})" for c in best))
    options = ["--top", top] if top != 3 else []  # the default
    assert output_of("predict", "--weights", "model.npz", *files, *options).splitlines() == lines
    assert lines[0].partition(":")[2] != lines[1].partition(":")[2]


def test_invert_reads_dark_digits_on_a_bright_background():
    light, inverted = (
        output_of("predict", "--weights", "model.npz", *words).partition(":")[2]
        for words in (["light0.png"], ["--invert", "dark0.png"])
    )
    status, out, err = run("predict", "--weights", "model.npz", "dark0.png")
    assert light == inverted != out.partition(":")[2]
    assert (status, err) == (
        0,
        "warning: dark0.png has a bright background, but model.npz expects a dark one. "
        "Pass --invert\n",
    )


def test_a_warning_is_printed_if_an_image_does_not_fit_the_model():
    photograph = data.sample_photograph()
    status, out, err = run("predict", "--weights", "model.npz", photograph, "light0.png")
    assert status == 0
    assert len(out.splitlines()) == 2
    assert err == (
        f"warning: {photograph} is a colour image of 600 x 512 pixels, but model.npz expects grey "
        "images of 8 x 8 pixels\n"
    )
    save_model("wide.npz", **COLOUR | {"image_size": (48, 64)})
    assert run("predict", "--weights", "wide.npz", "light0.png", photograph).err == (
        "warning: light0.png is a grey image of 8 x 8 pixels, but wide.npz expects colour images "
        "of 48 x 64 pixels\n"
    )


def test_predict_prints_the_names_of_the_classes():
    image = data.read_image("photo.png", (16, 24), 3, "dino")
    (p,), _ = layers.softmax(ViT.load("colour.npz")(image[None]))
    best = sorted(range(5), key=p.__getitem__, reverse=True)
    words = ["--weights", "colour.npz", "--labels", "labels.txt", "--top", 5, "photo.png"]
    lines = ["photo.png", *(f"{p[c]:8.1%}  {NAMES[c]}" for c in best)]
    assert output_of("predict", *words).splitlines() == lines


def predict_call(monkeypatch, *words):
    """Return the model and the images of a prediction."""
    calls = []

    def call(self, images):
        calls.append((self, images))
        return np.zeros((len(images), self.config.classes), np.float32)

    with monkeypatch.context() as patch:
        patch.setattr(ViT, "__call__", call)
        output_of("predict", "--weights", "colour.npz", "photo.png", *words)
    return calls.pop()


def test_images_are_preprocessed_as_for_the_model_or_as_requested(monkeypatch):
    dino = data.get_preprocessing("dino", (16, 24))
    for words, preprocessing in [
        ([], dino),
        (["--preprocess", "timm"], "timm"),
        (["--short-side", 20], dataclasses.replace(dino, short_side=20)),
        (["--preprocess=google", "--short-side=16"], data.Preprocessing(16, antialias=False)),
    ]:
        _, (image,) = predict_call(monkeypatch, *words)
        expected = data.read_image("photo.png", (16, 24), 3, preprocessing)
        assert np.array_equal(image, expected), words
    _, (image,) = predict_call(monkeypatch, "--invert")
    expected = dino.invert(data.read_image("photo.png", (16, 24), 3, dino))
    assert np.array_equal(image, expected)
    words = ["--weights", "colour.npz", "photo.png", "--short-side", 8]
    assert error_of("predict", *words).startswith("photo.png")


def test_options_take_precedence_over_the_file(monkeypatch):
    words = ["--image-size=32x48", "--heads=4", "--gelu=erf", "--norm-eps=1e-3"]
    model, images = predict_call(monkeypatch, *words)
    c = model.config
    assert images.shape == (1, 32, 48, 3)
    assert (c.image_size, c.heads, c.gelu, c.norm_eps) == ((32, 48), 4, "erf", 1e-3)
    for method in ("aligned", "bicubic"):
        model, _ = predict_call(monkeypatch, "--image-size=32x48", "--resize", method)
        expected = ViT.load("colour.npz", image_size=(32, 48), resize=method)
        tables = [m.params["positions"]["table"] for m in (model, expected)]
        assert np.array_equal(*tables)


def test_a_model_without_a_classifier_has_attention_maps_but_no_predictions():
    save_model("none.npz", image_size=16, channels=3, classes=None)
    words = ["--weights", "none.npz", "photo.png"]
    assert error_of("predict", *words).startswith("none.npz has no classifier")
    assert output_of("attention", *words) == "attention.png\n"
    for more in (["--labels", "labels.txt"], ["--kind", "gradients"]):
        assert "no classifier" in error_of("attention", *words, *more)


# --- attention --------------------------------------------------------------------------------


@pytest.fixture
def plots(monkeypatch):
    """Replace the plotting functions by functions that append their arguments to this list."""
    calls = []

    def plot_model(model, kind, images=None, titles=(), layer=-1, boxes=None, **options):
        calls.append(SimpleNamespace(**locals()))

    def plot_held_out(model, dataset, kind="maps", layer=-1, **options):
        calls.append(SimpleNamespace(**locals()))

    monkeypatch.setattr(analysis, "plot_model", plot_model)
    monkeypatch.setattr(analysis, "plot_held_out", plot_held_out)
    monkeypatch.setattr(analysis, "save_figure", lambda figure, path: None)
    return calls


@pytest.mark.parametrize("kind", analysis.KINDS)
def test_attention_writes_every_kind_of_figure(kind):
    words = ["attention", "--weights", "model.npz", "--kind", kind, "--out", "figure.png"]
    assert output_of(*words) == "figure.png\n"
    figure = Path("figure.png").read_bytes()
    assert figure.startswith(b"\x89PNG")
    if kind in analysis.IMAGE_KINDS:
        assert output_of(*words, "light0.png").splitlines()[-1] == "figure.png"
        assert Path("figure.png").read_bytes() != figure


@pytest.mark.parametrize(("words", "layer"), [([], 1), (["--layer", 1], 0), (["--layer=-2"], 0)])
def test_attention_draws_the_requested_layer(plots, words, layer):
    output_of("attention", "--weights", "model.npz", "light0.png", *words)
    output_of("attention", "--weights", "model.npz", "--kind", "gradients", *words)
    assert [range(2)[plot.layer] for plot in plots] == [layer, layer]
    assert plots[1].kind == "gradients"


def test_attention_draws_image_files_with_their_predictions(plots):
    words = ["attention", "--weights", "model.npz"]
    light, dark, last = run(*words, "light0.png", "dark1.png").out.splitlines()
    output_of(*words, "dark1.png", "--invert")
    output_of(*words, "light0.png", "--kind", "distance")
    plot, inverted, distance = plots
    images = [data.read_image(file, (8, 8), 1) for file in ("light0.png", "dark1.png")]
    assert np.array_equal(plot.images, images)
    p = layers.softmax(ViT.load("model.npz")(np.stack(images)))[0]
    best, probability = p.argmax(-1), p.max(-1)
    assert light.startswith(f"light0.png: {best[0]} ({probability[0]:.1%}), ")
    assert dark.startswith(f"dark1.png: {best[1]} ({probability[1]:.1%}), ")
    assert last == "attention.png"
    assert plot.titles == [
        f"light0.png\nclass {best[0]} ({probability[0]:.1%})",
        f"dark1.png\nclass {best[1]} ({probability[1]:.1%})",
    ]
    assert distance.titles == ["light0.png"]
    assert np.array_equal(inverted.images, -plot.images[1:])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"layer": -1}),
        (["--layer", "all"], {"layer": None}),
        (["--method", "mean", "--layer", 1], {"layer": 0, "methods": ["mean"]}),
        (["--method", "rollout", "--fusion", "max", "--discard", 0.9],
         {"layer": -1, "methods": ["rollout"], "fusion": "max", "discard": 0.9}),
        (["--head", 2, "--query", "1,2"], {"layer": -1, "head": 1, "query": (0, 1)}),
        (["--target", "OX", "--target", 0], {"layer": -1, "targets": [4, 0]}),
        (["--target", "crane", "--method", "max"],
         {"layer": -1, "targets": [2], "methods": ["max", "relevance"]}),
        (["--target", "tench", "--kind", "gradients"], {"layer": -1, "targets": [0]}),
    ],
)  # fmt: skip
def test_options_select_the_maps(plots, words, expected):
    words = ["--weights", "colour.npz", "--labels", "labels.txt", *words]
    output_of("attention", *words, "photo.png")
    (plot,) = plots
    assert {"layer": plot.layer, **plot.options} == expected


def test_options_select_the_maps_of_held_out_images(plots):
    output_of("attention", "--weights", "model.npz", "--target", 3, "--query", "2,1")
    (plot,) = plots
    assert plot.options == {"targets": [3], "query": (1, 0)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind", "filters", "--method", "raw"], "--method cannot be used with --kind filters"),
        (["--kind", "gradients", "--query", "1,1", "--head", 1],
         "--head, --query cannot be used with --kind gradients"),
        (["--kind", "distance", "--target", 1], "--target cannot be used with --kind distance"),
        (["--kind", "gradients", "--target", 1, "--target", 2],
         "--kind gradients plots a single --target"),
        (["--kind", "gradients", "--layer", "all"], "--layer all requires --kind maps"),
        (["--method", "raw", "--fusion", "max"], "--fusion requires --method rollout"),
        (["--method", "mean", "--discard", 0.5], "--discard requires --method rollout"),
        (["--discard", 1], "--discard must be at least 0 and below 1, not 1.0"),
        (["--discard", "nan"], "--discard must be at least 0 and below 1, not nan"),
        (["--head", 0], "--head must be 1 to 2, not 0"),
        (["--head", 3], "--head must be 1 to 2, not 3"),
        (["--query", "5,1"], "--query must be a patch from 1,1 to 4,4, not 5,1"),
        (["--query", "0,1"], "argument --query: expected a positive integer, not '0'"),
        (["--query", "1"], "argument --query: expected ROW,COL, not '1'"),
        (["--layer", "both"], "argument --layer: expected an integer or all, not 'both'"),
        (["--target", 10], "--target: there is no class '10': choose 0 to 9"),
        (["--target", "seven"], "--target: there is no class 'seven': choose 0 to 9"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("image", [[], ["light0.png"]])
def test_contradictory_options_are_invalid_usage(words, message, image):
    if image and words[1] == "filters":
        message = "images and --data do not apply to --kind filters"
    words = ["attention", "--weights", "model.npz", *words, *image]
    assert error_of(*words, status=2).replace("a name or an index from 0 to 9", "0 to 9") == message


@pytest.mark.parametrize("suffix", ["svg", "pdf", "jpg", "PNG"])
def test_the_suffix_determines_the_format(suffix):
    path = Path(f"figure.{suffix}")
    output_of("attention", "--weights", "model.npz", "light0.png", "--out", path)
    start = path.read_bytes()[:5]
    assert start.startswith(
        {"svg": b"<?xml", "pdf": b"%PDF", "jpg": b"\xff\xd8"}.get(suffix, b"\x89PNG")
    )


def test_attention_draws_a_data_set_resized_for_the_model(plots):
    save_model("large.npz", **COLOUR | {"classes": 10})
    assert "Select one with --data" in error_of(
        "attention", "--weights", "model.npz", "--image-size", 40
    )
    output_of("attention", "--weights", "large.npz", "--data", "digits")
    (plot,) = plots
    d = data.resize_dataset(data.load_digits(), (16, 24), 3, "dino")
    assert np.array_equal(plot.dataset.held_out_images[:9], d.held_out_images[:9])
    message = error_of("attention", "--weights", "colour.npz", "--data", "digits")
    assert "colour.npz has 5 classes, but the digits have 10 classes" in message


def test_a_model_of_photographs_has_a_default_image(plots):
    words = ["--weights", "colour.npz", "--labels", "labels.txt"]
    portrait = data.sample_photograph()
    path, prediction, *_ = output_of("predict", *words).splitlines()
    assert path == str(portrait)
    output_of("attention", "--weights", "colour.npz")
    output_of("attention", *words)
    plain, named = plots
    expected = data.read_image(portrait, (16, 24), 3, "dino")
    assert np.array_equal(plain.images, expected[None])
    index = NAMES.index(prediction.split(maxsplit=1)[1])
    assert plain.titles[0].startswith(f"grace_hopper.jpg\nclass {index} (")
    probability, name = prediction.split(maxsplit=1)
    assert named.titles == [f"grace_hopper.jpg\n{name} ({probability})"]


def test_a_file_name_that_is_not_valid_text_is_drawn():
    path = Path("\udcff.png")  # the byte 255
    try:
        path.write_bytes(Path("light0.png").read_bytes())
    except OSError:
        pytest.skip("this file system does not allow such names")
    lines = output_of("attention", "--weights", "model.npz", path).splitlines()
    assert lines[0].startswith("\\udcff.png: ")
    assert lines[1] == "attention.png"


@pytest.mark.parametrize("kind", ["maps", "gradients", "distance", "filters"])
def test_attention_prints_the_localisation_on_scattered_digits_by_default(plots, monkeypatch, kind):
    model = save_model("scattered.npz", image_size=24, patch_size=4)
    assert data.SCATTERED_MODEL.is_file()
    monkeypatch.setattr(data, "SCATTERED_MODEL", Path("scattered.npz"))
    few = use_few_scattered(monkeypatch, held_out=40)
    *lines, last = output_of("attention", "--kind", kind).splitlines()
    assert last == "attention.png"
    scores = analysis.localisation_scores(model, few.held_out_images, few.held_out_boxes)
    expected = [
        f"{name}: {scores[name]:.1%} of the map lies in the bounding box, which covers 11.1% of "
        "the image (mean over 40 held-out images)"
        for name in ("rollout", "gradient-weighted", "gradient sum")
    ]
    assert lines == (expected if kind == "maps" else [])


def test_attention_prints_no_localisation_on_resized_images(plots, monkeypatch):
    use_few_scattered(monkeypatch)
    save_model("large.npz", image_size=16, channels=3)
    words = ["attention", "--weights", "large.npz", "--data", "scattered"]
    assert output_of(*words) == "attention.png\n"
