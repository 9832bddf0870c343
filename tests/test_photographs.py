"""A real ViT-Ti/16 on real photographs: logits, names of classes and figures.

The reference logits were computed by an independent PyTorch model and rounded to four digits.
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import output_of
from PIL import Image

import minivit
from minivit import ViT, data
from minivit.analysis import attention_sinks

FOLDER = os.environ.get("MINIVIT_TEST_DATA")
pytestmark = pytest.mark.skipif(not FOLDER, reason="MINIVIT_TEST_DATA is not set")
PHOTOS = Path(FOLDER or "") / "photos"
IMAGENET = Path(FOLDER or "") / "vit-tiny-imagenet"
WEIGHTS, LABELS = IMAGENET / "vit_tiny_patch16_224.npz", IMAGENET / "imagenet_labels.txt"
OPTIONS = ["--weights", WEIGHTS, "--labels", LABELS]
NAMES = ["astronaut.png", "chelsea.png", "china.png", "coffee.png"]


@pytest.fixture(scope="module")
def reference():
    return json.loads((IMAGENET / "reference_photos.json").read_text())["photos"]


def test_logits_of_photographs(reference):
    model = ViT.load(WEIGHTS)
    preprocessing = data.get_preprocessing("timm", model.config.image_size)
    preprocessing = dataclasses.replace(preprocessing, short_side=256)
    for name in NAMES:
        image = data.read_image(PHOTOS / name, model.config.image_size, 3, preprocessing)
        (logits,) = model(image[None])
        expected = reference[name]["logits_first8"]
        np.testing.assert_allclose(logits[: len(expected)], expected, rtol=0, atol=1e-4)
        best = np.argsort(-logits)[:5]
        p = np.exp(logits - logits.max())
        p /= p.sum()
        assert best.tolist() == [c for c, _, _ in reference[name]["top5"]]
        probabilities = [probability for _, _, probability in reference[name]["top5"]]
        np.testing.assert_allclose(p[best], probabilities, rtol=0, atol=1e-5)


def test_predict_prints_the_five_most_probable_classes(reference):
    files = [PHOTOS / name for name in NAMES]
    options = [*OPTIONS, "--preprocess", "timm", "--short-side", 256, "--top", 5]
    expected = []
    for file in files:
        expected.append(str(file))
        expected += [f"{p:8.1%}  {name}" for _, name, p in reference[file.name]["top5"]]
    assert output_of("predict", *files, *options).splitlines() == expected


def test_predict_classifies_the_sample_photograph():
    path, first, *rest = output_of("predict", *OPTIONS).splitlines()
    assert path.endswith("grace_hopper.jpg")
    assert first.split(maxsplit=1)[1] == "military uniform"
    assert float(first.split("%")[0]) > 80
    assert len(rest) == 2


@pytest.mark.parametrize("size", ["384", "192x320"])
def test_predict_classifies_alike_at_another_image_size(size):
    files = [PHOTOS / name for name in NAMES[1:]]
    lines = output_of("predict", *files, *OPTIONS, "--image-size", size, "--top", 1).splitlines()
    found = [line.split(maxsplit=1)[1] for line in lines[1::2]]
    assert found == ["Egyptian cat", "monastery", "espresso"]


def test_attention_is_drawn_over_the_photographs(tmp_path):
    out, files = tmp_path / "figure.png", [PHOTOS / name for name in NAMES[:2]]
    lines = output_of("attention", *files, *OPTIONS, "--out", out).splitlines()
    assert lines[-1] == str(out)
    assert [line for line in lines if "%" not in line] == [*map(str, files), str(out)]
    with Image.open(out) as figure:
        pixels = np.asarray(figure.convert("RGB")).astype(float)
    H, W, _ = pixels.shape
    assert 1.7 < W / H < 2.1  # two rows of six panels, titles, a colour bar and a caption
    astronaut, maps = pixels[:, : W // 6], pixels[:, W // 6 :]
    assert (astronaut[..., 0] > astronaut[..., 2] + 100).mean() > 0.05  # the orange suit
    assert (maps[..., 0] > maps[..., 2] + 100).mean() > 0.02  # large weights over grey


def test_targets_are_found_among_the_bundled_names(tmp_path):
    out, cat = tmp_path / "figure.svg", PHOTOS / "chelsea.png"
    words = ["attention", cat, *OPTIONS[:2], "--target", "tabby", "--target", "egyptian CAT"]
    assert output_of(*words, "--out", out).splitlines()[1].endswith("  Egyptian cat")
    assert out.read_text().startswith("<?xml")
    model = ViT.load(WEIGHTS)
    figure = minivit.plot_attention(model, cat, method="relevance", target=["tabby", 285])
    titles = [axis.get_title().replace("\n", " ") for axis in figure.axes]
    assert titles[:3] == [
        "predicted: Egyptian cat", "relevance, tabby", "relevance, Egyptian cat"
    ]  # fmt: skip


def test_the_corners_of_photographs_are_attention_sinks():
    model = ViT.load(WEIGHTS)
    for name in NAMES:
        image = data.read_image(PHOTOS / name, (224, 224), 3, model.config.preprocessing)
        sinks = attention_sinks(model.attention(image[None]), model.config.grid)[0]
        assert sinks[[0, 0, -1, -1], [0, -1, 0, -1]].all()
        assert sinks.sum() <= 6
