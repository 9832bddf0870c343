"""A session of typical mistakes at the command line, each with its exact output.

Each message names the mistake and the remedy in at most two lines, without the usage.
"""

from pathlib import Path

import numpy as np
import pytest
from helpers.commands import run, save_model
from PIL import Image

from minivit import ViT

SESSION = [  # command, exit status, message on stderr
    ("trian", 2,
     "minivit: error: unknown command 'trian'; did you mean 'train'?"),
    ("plot digits", 2,
     "minivit: error: unknown command 'plot'; see `minivit --help`"),
    ("train --lrr 0.1", 2,
     "minivit train: error: unknown option '--lrr'; did you mean '--lr'?"),
    ("train --epoch-count 5", 2,
     "minivit train: error: unknown option '--epoch-count'; did you mean '--epochs'?"),
    ("train --epochs ten", 2,
     "minivit train: error: argument --epochs: expected a positive integer, not 'ten'"),
    ("train --lr 0,001", 2,
     "minivit train: error: argument --lr: expected a number, not '0,001'"),
    ("train --batch-size", 2,
     "minivit train: error: argument --batch-size: expected one argument"),
    ("train --optimizer adam", 2,
     "minivit train: error: argument --optimiser: unknown value 'adam'; did you mean 'adamw'?"),
    ("train --schedule cosin", 2,
     "minivit train: error: argument --schedule: unknown value 'cosin'; did you mean 'cosine'?"),
    ("train --data cifar-10", 2,
     "minivit train: error: argument --data: there is no data set or folder 'cifar-10'; did you "
     "mean 'cifar10'?"),
    ("train --data photo.png", 2,
     "minivit train: error: argument --data: there is no data set or folder 'photo.png'; choose "
     "digits, scattered, mnist, fashion-mnist, cifar10, cifar100, or a folder with one subfolder "
     "of images per class"),
    ("train --data empty", 1,
     "minivit train: error: empty has no classes: place the images of each class in a subfolder"),
    ("train --model ViT-B16", 2,
     "minivit train: error: --model: unknown model 'ViT-B16': choose ViT-{Ti,S,B,L,H}/PATCH, one "
     "of R+ViT-Ti/16, R26+ViT-S/32, R26+ViT-B/32, R50+ViT-B/16, R50+ViT-L/32, or timm's name of "
     "such a model"),
    ("train --width 100 --heads 3", 2,
     "minivit train: error: width 100 is not a multiple of 3 heads"),
    ("train --patch-size 3", 2,
     "minivit train: error: --image-size 8 x 8 cannot be cut into patches of 3 x 3"),
    ("train --dropout 1.5", 2,
     "minivit train: error: --dropout must be in [0, 1), not 1.5"),
    ("train --resume", 1,
     "minivit train: error: there is no file runs/digits/model.npz"),
    ("train --from none.npz", 1,
     "minivit train: error: there is no file none.npz"),
    ("train digits", 2,
     "minivit train: error: unexpected argument 'digits'; see `minivit train --help`"),
    ("evaluate --data mnist --weights model.npz --image-size 30", 1,
     "minivit evaluate: error: --image-size 30 x 30 cannot be cut into patches of 4 x 4"),
    ("evaluate", 1,
     "minivit evaluate: error: runs/digits/model.npz does not exist. Train a model with `python -m "
     "minivit train`, or pass --weights"),
    ("evaluate --weights ten.pth", 1,
     "minivit evaluate: error: ten.pth is pickled, and loading it could run code. Convert it where "
     "PyTorch is installed: python -c \"import torch, safetensors.torch as s; t = torch.load('ten."
     "pth', weights_only=True); s.save_file(t.get('model', t), 'ten.safetensors')\""),
    ("evaluate --weights labels.txt", 1,
     "minivit evaluate: error: labels.txt is not a complete .npz file. Weights are .npz or "
     ".safetensors files"),
    ("evaluate --weights five.npz --data digits", 1,
     "minivit evaluate: error: five.npz has 5 classes, but the digits have 10 classes. Add a new "
     "head with `train --from`"),
    ("predict none.png --weights model.npz", 1,
     "minivit predict: error: there is no file none.png"),
    ("predict labels.txt --weights model.npz", 1,
     "minivit predict: error: labels.txt cannot be read as an image: unknown file format"),
    ("predict photo.png --weights two.npz", 1,
     "minivit predict: error: photo.png: images have 1 or 3 channels, but the model takes 2"),
    ("predict photo.png --weights model.npz --labels labels.txt", 1,
     "minivit predict: error: labels.txt has 2 lines, but the model has 10 classes"),
    ("attention --kind map", 2,
     "minivit attention: error: argument --kind: unknown value 'map'; did you mean 'maps'?"),
    ("attention --method gradcam", 2,
     "minivit attention: error: argument --method: unknown value 'gradcam'; choose raw, mean, max, "
     "rollout, relevance"),
    ("attention photo.png --weights named --target ca", 2,
     "minivit attention: error: --target: there is no class 'ca'; did you mean 'cat'?"),
    ("attention --out figure.gif", 2,
     "minivit attention: error: --out: cannot save a figure as 'figure.gif': the suffix must be "
     ".png, .svg, .pdf, .jpg, .jpeg"),
    ("attention --layer 9", 2,
     "minivit attention: error: --layer must be all, 1 to 4 or -1 to -4, not 9"),
    ("cost ViT-B/16 --image-size 225", 2,
     "minivit cost: error: --image-size 225 x 225 cannot be cut into patches of 16 x 16"),
    ("gradcheck layernorm", 2,
     "minivit gradcheck: error: no function name contains all of these words: layernorm"),
    ("exercise 99 --start", 2,
     "minivit exercise: error: there is no exercise '99'; choose one of 0, 1, 2, 3, 4, 5, 6, 7, 8, "
     "9, 10, 11, 12, 13, 14, 15, 16, 17, 18, A"),
    ("exercise 4 --hint 5", 2,
     "minivit exercise: error: argument --hint: unknown value '5'; choose 1, 2, 3"),
    ("predict photo.png --weights grey", 0,
     "warning: photo.png is a colour image of 30 x 40 pixels, but grey expects grey images of 8 x "
     "8 pixels"),
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Create models, a photograph and other files."""
    folder = tmp_path_factory.mktemp("session")
    for name in ("empty", "named", "grey"):
        (folder / name).mkdir()
    save_model(folder / "model.npz", patch_size=4)
    save_model(folder / "five.npz", classes=5)
    save_model(folder / "two.npz", channels=2)
    save_model(folder / "grey" / "model.npz")
    save_model(folder / "named" / "model.npz", classes=2, channels=3)
    (folder / "named" / "classes.txt").write_text("cat\ndog\n")
    (folder / "labels.txt").write_text("cat\ndog\n")
    (folder / "ten.pth").write_bytes(b"PK\x03\x04")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder


@pytest.mark.parametrize(("line", "status", "message"), SESSION)
def test_a_mistake_has_a_message_with_its_remedy(files, monkeypatch, line, status, message):
    monkeypatch.chdir(files)
    before = sorted(Path().rglob("*"))
    result = run(*line.split())
    assert (result.err, result.status) == (f"{message}\n", status)
    assert len(result.err.splitlines()) <= 2
    assert sorted(Path().rglob("*")) == before


def test_without_a_command_the_help_is_printed():
    status, out, err = run()
    assert (status, err) == (2, "")
    assert out == run("--help").out
    assert "commands:" in out


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("--optimizer sgd", "--optimiser sgd"),
        ("--img-size 16", "--image-size 16"),
        ("--img_size=16", "--image-size 16"),
        ("--batch_size 7", "--batch-size 7"),
        ("--learning-rate 0.5", "--lr 0.5"),
        ("--weight_decay 0.5", "--weight-decay 0.5"),
        ("--warmup-epochs 2", "--warmup 2"),
        ("--clip-grad 3", "--grad-clip 3"),
        ("--model vit_tiny_patch16_224", "--model ViT-Ti/16 --image-size 224"),
        (
            "--model ViT-Ti/4 --depth 2",
            "--patch-size 4 --width 192 --heads 3 --mlp-width 768 --depth 2",
        ),
    ],
)
def test_other_spellings_are_accepted(line, other):
    a, b = (run("train", *words.split(), "--print-config") for words in (line, other))
    assert (a.status, a.err) == (0, "")
    assert a.out == b.out
    assert a.out != run("train", "--print-config").out


def test_a_folder_of_weights_is_accepted(files):
    assert ViT.load(files / "named").class_names == ("cat", "dog")
    photo = files / "photo.png"
    status, out, err = run("predict", photo, "--weights", files / "named")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == str(photo)
