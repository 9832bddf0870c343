"""The README and the guide: every command runs, and every block of code has the shown output."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers import commands
from helpers.models import tiny_model
from PIL import Image

import minivit
from minivit import ViT, ViTConfig, data
from minivit.training import get_preset

quick = commands.quick  # a fixture
ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ELSEWHERE = {  # commands that other tests run, or that need a GPU or a network
    "python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt && ": ".ci/run",
    "python chapters/": "tests/test_chapters.py",
    "python -m pip install": "a GPU",
    "--device gpu": "tests/test_devices.py",
}
MODELS = {  # files of other programs: fields of a model of the same layout
    "ViT-B_16.npz": ("google", {}),
    "model.safetensors": ("timm", {}),
    "vit-base-patch16-224": ("huggingface", {}),
    "R50+ViT-B_16.npz": ("google", {"stem": (1, 1), "stem_width": 32, "patch_size": 2}),
}


def blocks(document):
    """Return the blocks of code of a document as (language, text)."""
    return BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))


def small_dataset(name):
    """Return 30 training images and two held-out images of each class."""
    c = ViTConfig(**get_preset(name).model)
    images = np.random.default_rng(0).uniform(-1, 1, (32 * c.classes, *c.image_size, c.channels))
    labels, held_out = np.arange(32 * c.classes) % c.classes, 30 * c.classes
    images = images.astype(np.float32)
    classes = tuple(map(str, range(c.classes)))
    parts = images[:held_out], labels[:held_out], images[held_out:], labels[held_out:]
    return data.Dataset(name, *parts, classes)


@pytest.fixture
def folder(tmp_path, monkeypatch, quick):
    """Provide a working directory with the files that the commands use."""
    monkeypatch.chdir(tmp_path)
    vit = ViT.create("ViT-Ti/16")
    vit.save("vit_tiny_patch16_224.npz", layout="timm")
    small = {"image_size": 224, "patch_size": 16, "channels": 3, "width": 192, "heads": 3}
    for name, (layout, fields) in MODELS.items():
        tiny_model("float32", **small | fields).save(name, layout=layout)
    tiny_model("float32", **small).save("FILE.npz", layout="timm")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    for name in ("cat", "dog"):
        Path("flowers", name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(pixels).save(f"flowers/{name}/{i}.jpg")
    Image.fromarray(pixels).save("photo.jpg")
    for name in data.DATASETS:
        monkeypatch.setitem(data.DATASETS, name, lambda n=None, name=name: small_dataset(name))
    commands.use_few_scattered(monkeypatch, held_out=20)
    return tmp_path


def runnable(document):
    """Return the commands of a document that this module runs."""
    for language, text in blocks(document):
        for line in text.splitlines() if language == "sh" else []:
            if not any(part in line for part in ELSEWHERE):
                yield line.partition(" #")[0].strip()


@pytest.mark.book
@pytest.mark.parametrize("document", ["README.md", "chapters/guide.md"])
def test_every_command_runs(document, folder):
    lines = list(runnable(document))
    assert len(lines) >= 10
    for line in lines:
        program, *words = shlex.split(line.replace("FILE", "FILE.npz"))
        assert (program, words[:2]) == ("python", ["-m", "minivit"])
        words = words[2:]
        is_training = words[0] == "train" and words[-1] != "--print-config"
        if is_training:
            words += ["--epochs", "1", "--batch-size", "500"]
        if is_training and words[1] != "--from":
            words += ["--depth", "1"]
        status, out, err = commands.run(*words)
        ungraded = words[0] == "exercise" and len(words) == 2  # the template is not a solution
        assert status == ungraded, (line, out, err)
        assert "error" not in err


def test_the_first_commands_are_those_of_the_continuous_integration():
    first, second = (
        text.strip().rpartition(" && ")[2] for language, text in blocks("README.md")[:2]
    )
    assert first == ".venv/bin/python -m minivit train"
    assert second == ".venv/bin/python -m pytest"
    ci = (ROOT / ".ci/run").read_text()
    assert 'pip" install -q -r requirements.txt' in ci
    assert 'python" -m pytest   ' in ci


@pytest.mark.book
@pytest.mark.parametrize("document", ["README.md", "chapters/guide.md"])
def test_every_block_of_code_has_the_shown_output(document, folder):
    names, pending = {"np": np, "minivit": minivit}, None
    for language, text in blocks(document):
        if language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(text, names)
            pending = output.getvalue()
        elif language == "text":
            shown = re.sub(r"\d\.\de[-+]\d\d", "ERROR", text)  # rounding depends on the machine
            assert re.sub(r"\d\.\de[-+]\d\d", "ERROR", pending) == shown
    assert pending is not None


@pytest.mark.book
def test_comments_in_the_code_have_the_shown_shapes(folder):
    for _, text in (block for block in blocks("chapters/guide.md") if "model.tokens" in block[1]):
        names = {"np": np, "minivit": minivit}
        exec(re.sub(r"model.forward\(images, watch=.*", "", text), names)
        for name, numbers in re.findall(r"^(\w+) = .*[#,] (\([\d, ]+\))$", text, re.MULTILINE):
            assert names[name].shape == tuple(map(int, re.findall(r"\d+", numbers))), name
        assert names["logits"].shape == (8, 10)


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 1500


def test_the_address_of_the_repository_stands_in_one_place():
    files = [*ROOT.glob("*.*"), *ROOT.glob("chapters/*.*"), *ROOT.glob(".github/**/*.yml")]
    texts = {path.name: path.read_text(encoding="utf-8") for path in files if path.is_file()}
    assert [name for name, text in texts.items() if "OWNER/minivit" in text] == ["pyproject.toml"]
