"""A real ViT-Ti/16 and real photographs: the same logits, the same names, from file to figure.

The logits of the reference are an independent PyTorch model's, rounded to four digits.
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import output_of as printed
from PIL import Image

from minivit import ViT, data

FOLDER = os.environ.get("MINIVIT_TEST_DATA")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="MINIVIT_TEST_DATA does not name the folder of test data"
)
DATA = Path(FOLDER or "")
WEIGHTS = DATA / "vit-tiny-imagenet" / "vit_tiny_patch16_224.npz"
LABELS = DATA / "vit-tiny-imagenet" / "imagenet_labels.txt"
NAMES = ["astronaut.png", "chelsea.png", "china.png", "coffee.png"]


@pytest.fixture(scope="module")
def reference():
    text = (DATA / "vit-tiny-imagenet" / "reference_photos.json").read_text()
    return json.loads(text)["photos"]


@pytest.fixture(scope="module")
def model():
    return ViT.load(WEIGHTS)


@pytest.mark.parametrize("name", NAMES)
def test_the_logits_of_a_photograph_are_those_of_another_implementation(model, reference, name):
    how = data.get_preprocessing("timm", model.config.image_size)
    how = dataclasses.replace(how, short_side=256)  # the middle of what has 256 x 256
    image = data.read_image(DATA / "photos" / name, model.config.image_size, 3, how)
    (logits,) = model(image[None])
    expected = reference[name]["logits_first8"]
    np.testing.assert_allclose(logits[: len(expected)], expected, rtol=0, atol=1e-4)
    best = np.argsort(-logits)[:5]
    p = np.exp(logits - logits.max())
    p /= p.sum()
    assert best.tolist() == [c for c, _, _ in reference[name]["top5"]]
    close = [share for _, _, share in reference[name]["top5"]]
    np.testing.assert_allclose(p[best], close, rtol=0, atol=1e-5)


def test_predict_names_the_five_classes_of_each_in_order(reference):
    files = [DATA / "photos" / name for name in NAMES]
    words = ["--weights", WEIGHTS, "--labels", LABELS, "--preprocess", "timm", "--short-side", 256]
    lines = printed("predict", *files, *words, "--top", 5).splitlines()
    expected = []
    for file in files:
        expected.append(str(file))
        expected += [f"{p:8.1%}  {name}" for _, name, p in reference[file.name]["top5"]]
    assert lines == expected


def test_the_default_photograph_shows_a_military_uniform():
    path, first, *rest = printed("predict", "--weights", WEIGHTS, "--labels", LABELS).splitlines()
    assert path.endswith("grace_hopper.jpg")
    assert first.split(maxsplit=1)[1] == "military uniform"
    assert float(first.split("%")[0]) > 80
    assert len(rest) == 2


@pytest.mark.parametrize("size", ["384", "192x320"])
def test_a_larger_or_longer_image_shows_the_same_things(size):
    files = [DATA / "photos" / name for name in NAMES[1:]]
    words = ["--weights", WEIGHTS, "--labels", LABELS, "--image-size", size, "--top", 1]
    lines = printed("predict", *files, *words).splitlines()[1::2]
    found = [line.split(maxsplit=1)[1] for line in lines]
    assert found == ["Egyptian cat", "monastery", "espresso"]


def test_attention_is_laid_over_the_photographs(tmp_path):
    out = tmp_path / "figure.png"
    files = [DATA / "photos" / name for name in NAMES[:2]]
    words = ["--weights", WEIGHTS, "--labels", LABELS, "--out", out]
    assert printed("attention", *files, *words) == f"{out}\n"
    with Image.open(out) as figure:
        pixels = np.asarray(figure.convert("RGB")).astype(float)
    H, W, _ = pixels.shape
    astronaut, maps = pixels[:, : W // 6], pixels[:, W // 6 :]
    assert 2.3 < W / H < 2.7  # two rows of six
    suit = (astronaut[..., 0] > astronaut[..., 2] + 100).mean()
    glow = (maps[..., 0] > maps[..., 2] + 100).mean()
    assert suit > 0.05  # the orange of the suit, in colour
    assert glow > 0.02  # the heat, over grey
