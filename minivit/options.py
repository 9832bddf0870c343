"""The options of the command line. Each field of ViTConfig and of Recipe has one of its name."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import __version__, training
from .analysis import KINDS
from .data import SCATTERED_MODEL
from .models import ViTConfig
from .models.config import GELUS, POOLINGS, POSITIONS, PREPROCESSINGS
from .resampling import METHODS

DIGITS = {
    "image_size": 8, "patch_size": 2, "channels": 1, "classes": 10,
    "width": 64, "depth": 4, "heads": 4, "mlp_width": 256, "position_std": 1.0,
}  # fmt: skip
SCATTERED = DIGITS | {"image_size": 24, "patch_size": 4, "position_std": 0.1}
PRESETS = {  # for each data set the model and what its recipe has of its own
    "digits": (DIGITS, {}),
    "scattered": (SCATTERED, {"epochs": 6, "warmup": 0.3}),
}
_TUNING = dataclasses.asdict(training.FINE_TUNING)
TUNING = {"digits": _TUNING, "scattered": _TUNING | {"epochs": 1, "warmup": 0.1}}  # with --from
READING = ("image_size", "resize", "heads", "positions", "gelu", "norm_eps", "preprocessing")
OF_A_FILE = (*READING, "dropout")  # what --from leaves open
WEIGHTS = Path("runs/digits/model.npz")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `args.command` is the name of the one that was chosen."""
    parser = argparse.ArgumentParser(
        prog="python -m minivit",
        description="The Vision Transformer from scratch: train it, check it, look inside.",
        epilog="`python -m minivit COMMAND --help` tells more, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"minivit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _train(commands)
    _evaluate(commands)
    _predict(commands)
    _attention(commands)
    _gradcheck(commands)
    _exercise(commands)
    return parser


def _train(commands: Any) -> None:
    sub = _command(
        commands,
        "train",
        "Train a ViT on a data set, fine-tune one, or go on with a training that was interrupted.",
        [
            "train", "train --seed 1 --out runs/second", "train --resume", "train --data scattered",
            "train --from vit.npz --data digits --image-size 96", "train --from vit.npz --freeze",
        ],
    )  # fmt: skip
    add = sub.add_argument
    text = "the UCI handwritten digits, or these scattered among scraps of others (digits)"
    add("--data", choices=list(PRESETS), default="digits", help=text)
    text = "where to write (runs/ and the data's name, with --from runs/NAME-tuned)"
    add("--out", type=Path, metavar="FOLDER", help=text)
    text = "fine-tune a model under a new head: minivit's or anyone's, a file or a folder"
    add("--from", dest="origin", type=Path, metavar="FILE", help=text)
    go = sub.add_mutually_exclusive_group()
    go.add_argument("--resume", action="store_true", help="go on with the training in --out")
    go.add_argument("--overwrite", action="store_true", help="drop an unfinished one in --out")
    add("--threads", type=_positive, metavar="N", help="how many to use (all cores)")

    config = ViTConfig(**DIGITS)
    text = f"for scattered: {_own(SCATTERED, DIGITS)}\nwith --from, the file's; what can be said"
    text += f" is {', '.join(_option(name).removeprefix('--') for name in OF_A_FILE)}"
    model = sub.add_argument_group("the model", text)
    text = "pixels of an image, to which the data's are resized (8)"
    model.add_argument("--image-size", type=_size, metavar="N|HxW", help=text)
    _resize(model.add_argument)
    _field(model, config, "patch_size", _positive, "side of a patch, P")
    _field(model, config, "width", _positive, "of a token, D")
    _field(model, config, "depth", _positive, "number of blocks, L")
    _field(model, config, "heads", _positive, "of each attention, k")
    _field(model, config, "mlp_width", _positive, "of the hidden layer, M")
    _choice(model, config, "positions", POSITIONS)
    _choice(model, config, "pooling", POOLINGS)
    _field(model, config, "hidden_head", _positive, "width of a tanh layer before the classes")
    _choice(model, config, "gelu", GELUS)
    _field(model, config, "norm_eps", float, "in the layer norms")
    _field(model, config, "dropout", float, "rate")
    _field(model, config, "position_std", float, "deviation of learned positions at first")
    text = f"{config.preprocessing}; DINO's and DeiT's files look like timm's"
    _preprocess(model.add_argument, text)

    recipe = training.Recipe()
    text = f"for scattered: {_own(PRESETS['scattered'][1])}\nwith --from: "
    text += _own(TUNING["digits"], dataclasses.asdict(recipe))
    text += f"\n  for scattered too: {_own(TUNING['scattered'], TUNING['digits'])}"
    how = sub.add_argument_group("the recipe", text)
    _field(how, recipe, "epochs", _positive, "times through all images")
    _field(how, recipe, "batch", _positive, "images a step")
    _choice(how, recipe, "optimiser", training.OPTIMISERS)
    _field(how, recipe, "rate", float, "the learning rate's peak")
    _field(how, recipe, "warmup", float, "epochs until it is reached")
    _choice(how, recipe, "decay", training.DECAYS)
    _field(how, recipe, "weight_decay", float, "decoupled, kernels only")
    _field(how, recipe, "clip", float, "largest norm of the gradient, 0 for any")
    _field(how, recipe, "smoothing", float, "of the labels")
    _field(how, recipe, "shift", int, "pixels to move images about by")
    _field(how, recipe, "seed", int, "of all random numbers")
    _field(how, recipe, "shards", _positive, "pieces of a batch, None: as the cache suggests")
    text = "train the head alone (it is not)"
    how.add_argument("--freeze", action="store_true", default=None, help=text)


def _evaluate(commands: Any) -> None:
    sub = _command(
        commands,
        "evaluate",
        "Score a model on held-out images or, without its head, on a few images of each class.",
        [
            "evaluate", "evaluate --weights runs/scattered/model.npz",
            "evaluate --weights vit.npz --data digits --shots 1 5 10 25",
        ],
    )  # fmt: skip
    add = sub.add_argument
    _data(add)
    text = "fit a linear model to the features of N images a class; means of three draws"
    add("--shots", type=_positive, nargs="+", metavar="N", help=text)
    _weights(sub)
    _reading(sub)


def _predict(commands: Any) -> None:
    sub = _command(
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
    sub.add_argument("--top", type=_positive, default=3, metavar="N", help="how many classes (3)")
    _weights(sub)
    _photographs(sub)
    _reading(sub)


def _attention(commands: Any) -> None:
    sub = _command(
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
    _data(add)
    add("--kind", choices=list(KINDS), default="maps", metavar="KIND", help="see above (maps)")
    add("--layer", type=int, metavar="L", help="from 1, or from -1 for the last (-1)")
    out = Path("attention.png")
    add("--out", type=Path, default=out, metavar="FILE", help=f"the figure, a PNG ({out})")
    _weights(sub, SCATTERED_MODEL, "the one that comes along, of scattered digits")
    _photographs(sub)
    _reading(sub)


def _gradcheck(commands: Any) -> None:
    sub = _command(
        commands,
        "gradcheck",
        "Compare every pullback with the complex step: the worst error of each argument.",
        ["gradcheck", "gradcheck layer_norm", "gradcheck ViT relative --all"],
    )
    sub.add_argument("words", nargs="*", metavar="WORD", help="only names with all of these")
    sub.add_argument("--all", action="store_true", help="a row for each array of a model")


def _exercise(commands: Any) -> None:
    sub = _command(
        commands,
        "exercise",
        "Grade what you wrote for an exercise of the book; without a chapter, list them all.",
        ["exercise", "exercise 4 --start", "exercise 4", "exercise 4 --hint 2", "exercise a"],
    )
    sub.add_argument("chapter", nargs="?", metavar="CHAPTER", help="from 0 to 16, or A")
    what = sub.add_mutually_exclusive_group()
    add = what.add_argument
    add("--start", action="store_true", help="put its frame into the folder exercises/")
    levels = {"type": int, "choices": (1, 2, 3), "nargs": "?", "const": 1}
    add("--hint", **levels, help="help a little; 2 helps more, 3 a lot (1)")
    add("--solution", action="store_true", help="print a solution")


def _command(
    commands: Any, name: str, summary: str, examples: list[str]
) -> argparse.ArgumentParser:
    sub = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog="\n".join(["examples:", *(f"  python -m minivit {e}" for e in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(command=name, usage_error=sub.error)
    return sub


def _field(group: Any, defaults: Any, name: str, kind: Callable[[str], Any], text: str) -> None:
    text = f"{text} ({getattr(defaults, name)})"
    group.add_argument(_option(name), type=kind, metavar="X", help=text)


def _choice(group: Any, defaults: Any, name: str, choices: Any) -> None:
    group.add_argument(f"--{name}", choices=list(choices), help=f"({getattr(defaults, name)})")


def _option(name: str) -> str:
    """The option that sets a field."""
    return "--preprocess" if name == "preprocessing" else "--" + name.replace("_", "-")


def _own(fields: dict[str, Any], others: dict[str, Any] | None = None) -> str:
    """What a preset has of its own, as options."""
    own = {name: value for name, value in fields.items() if value != (others or {}).get(name)}
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in own.items())


def _weights(
    sub: argparse.ArgumentParser, default: Path = WEIGHTS, name: str = str(WEIGHTS)
) -> None:
    text = f"the model, minivit's or anyone's: a file or a folder ({name})"
    sub.add_argument("--weights", type=Path, default=default, metavar="FILE", help=text)


def _photographs(sub: argparse.ArgumentParser) -> None:
    """How image files become images, and what their classes are called."""
    add = sub.add_argument_group("image files").add_argument
    add("--labels", type=Path, metavar="FILE", help="the names of the classes, one on each line")
    text = "scale their short side to N pixels, then cut out the middle"
    add("--short-side", type=_positive, metavar="N", help=text)
    text = "for dark ink on white paper: the digits are light on dark"
    add("--invert", action="store_true", help=text)


def _reading(sub: argparse.ArgumentParser) -> None:
    """What the names and shapes in a file of weights do not tell, or should be otherwise."""
    add = sub.add_argument_group("reading the weights").add_argument
    text = "pixels of an image (the file's): positions are resized, but where a bare file has just"
    text += " as many as the size has patches, they are taken as they are"
    add("--image-size", type=_size, metavar="N|HxW", help=text)
    _resize(add)
    text = "of each attention, k (as the file or a usual width tells)"
    add("--heads", type=_positive, metavar="N", help=text)
    text = "for a file without a table: sincos2d for big_vision's (as its origin has it)"
    add("--positions", choices=list(POSITIONS), help=text)
    add("--gelu", choices=list(GELUS), help="(as the file's origin has it)")
    add("--norm-eps", type=float, metavar="X", help="in the layer norms (as its origin has it)")
    _preprocess(add, "as the file's origin has it; DINO's and DeiT's look like timm's")


def _resize(add: Callable[..., Any]) -> None:
    choices = [method for method in METHODS if method != "area"]
    add("--resize", choices=choices, help="the method for positions (aligned, as the authors do)")


def _preprocess(add: Callable[..., Any], default: str) -> None:
    text = f"how pictures are brought to it, and the colours of a data set ({default})"
    add("--preprocess", dest="preprocessing", choices=list(PREPROCESSINGS), help=text)


def _data(add: Callable[..., Any]) -> None:
    text = "the images, resized to those that the model takes (those that fit)"
    add("--data", choices=list(PRESETS), help=text)


def _size(text: str) -> int | tuple[int, int]:
    sides = text.split("x")
    if len(sides) > 2 or (len(sides) == 2 and not all(sides)):
        raise argparse.ArgumentTypeError(f"is one number, or height and width as HxW, not {text}")
    height, width = _positive(sides[0]), _positive(sides[-1])
    return height if len(sides) == 1 else (height, width)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        text = text or "nothing"
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, not {text}")
    return int(text)
