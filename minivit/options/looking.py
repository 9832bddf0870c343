"""The options of the commands that use a trained model: evaluate, predict, attention."""

from pathlib import Path
from typing import Any

from ..analysis import KINDS
from ..data import SCATTERED_MODEL
from .parts import command, device, images, photographs, positive, reading, weights


def evaluate(commands: Any) -> None:
    """`evaluate`: on which images, and by what."""
    sub = command(
        commands,
        "evaluate",
        "Score a model on held-out images or, without its head, on a few images of each class.",
        [
            "evaluate", "evaluate --data cifar10", "evaluate --weights runs/scattered/model.npz",
            "evaluate --weights vit.npz --data digits --shots 1 5 10 25",
        ],
    )  # fmt: skip
    images(sub.add_argument)
    text = "fit a linear model to the features of N images a class; means of three draws"
    sub.add_argument("--shots", type=positive, nargs="+", metavar="N", help=text)
    weights(sub, None, "what train left for the data, as runs/digits/model.npz")
    device(sub)
    reading(sub)


def predict(commands: Any) -> None:
    """`predict`: of which image files, and how many classes."""
    sub = command(
        commands,
        "predict",
        "Name the likeliest classes of image files.",
        [
            "predict digit.png", "predict --invert --top 1 scan1.png scan2.png",
            "predict photo.jpg --weights vit.npz --labels imagenet.txt --top 5",
        ],
    )  # fmt: skip
    text = "files; without any, a model of photographs is shown a portrait"
    sub.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help=text)
    sub.add_argument("--top", type=positive, default=3, metavar="N", help="how many classes (3)")
    weights(sub)
    device(sub)
    photographs(sub)
    reading(sub)


def attention(commands: Any) -> None:
    """`attention`: of which images and layer, and what is drawn where."""
    sub = command(
        commands,
        "attention",
        "Draw where a model looks, or what it has learned.",
        [
            "attention", "attention --kind distance --out distance.png",
            "attention --kind gradients --layer 1", "attention --kind positions",
            "attention --weights runs/digits/model.npz digit.png",
            "attention photo.jpg --weights vit.npz --labels imagenet.txt",
            "attention --data digits --weights runs/digits-tuned/model.npz",
        ],
    )  # fmt: skip
    sub.description += "\n\n" + "\n".join(f"  {kind:10} {KINDS[kind]}" for kind in KINDS)
    sub.description += (
        "\n\nFor scattered digits, if not resized, maps and gradients also tell how much of three"
        "\nmaps lies on the digit: the rollout, the gradient-weighted one, and the sum that is not"
        "\nrolled out."
    )
    add = sub.add_argument
    text = "files; without any, held-out images of --data, of the digits that fit, or for a model"
    text += " of photographs a portrait"
    add("images", nargs="*", type=Path, metavar="IMAGE", help=text)
    images(add)
    add("--kind", choices=list(KINDS), default="maps", metavar="KIND", help="see above (maps)")
    add("--layer", type=int, metavar="L", help="from 1, or from -1 for the last (-1)")
    out = Path("attention.png")
    add("--out", type=Path, default=out, metavar="FILE", help=f"the figure, a PNG ({out})")
    weights(sub, SCATTERED_MODEL, "the one that comes along, of scattered digits")
    device(sub)
    photographs(sub)
    reading(sub)
