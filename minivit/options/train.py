"""The options of `train`. Each field of ViTConfig and of Recipe has one of its name."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import training
from ..models import ViTConfig
from ..models.config import GELUS, POOLINGS, POSITIONS
from ..training.presets import DIGITS
from .parts import (
    DATA,
    READING,
    command,
    data_set,
    device,
    option,
    positive,
    preprocess,
    resize,
    size,
    stem,
)

OF_A_FILE = (*READING, "dropout", "drop_path")  # what --from leaves open
NOT_OF_THE_DIGITS = "defaults are the digits'; --print-config shows those of any --data"


def train(commands: Any) -> None:
    """`train`: on what, from where to where, and each field of the model and the recipe."""
    sub = command(
        commands,
        "train",
        "Train a ViT on a data set, fine-tune one, or go on with a training that was interrupted.",
        [
            "train", "train --seed 1 --out runs/second", "train --resume", "train --data cifar10",
            "train --data flowers/ --image-size 96 --print-config > flowers.txt",
            "train @flowers.txt --epochs 50",
            "train --from vit.npz --data digits --image-size 96", "train --from vit.npz --freeze",
            "train --data cifar10 --device gpu --precision tf32",
        ],
    )  # fmt: skip
    # what --print-config printed can be given back, comments and all
    sub.fromfile_prefix_chars = "@"
    sub.convert_arg_line_to_args = _words
    add = sub.add_argument
    text = f"{DATA} (digits, or with --resume what it began on)"
    add("--data", type=data_set, metavar="NAME|FOLDER", help=text)
    text = "where to write (runs/ and the data's name, with --from runs/NAME-tuned)"
    add("--out", type=Path, metavar="FOLDER", help=text)
    text = "fine-tune a model under a new head: minivit's or anyone's, a file or a folder"
    add("--from", dest="origin", type=Path, metavar="FILE", help=text)
    go = sub.add_mutually_exclusive_group()
    go.add_argument("--resume", action="store_true", help="go on with the training in --out")
    go.add_argument("--overwrite", action="store_true", help="drop an unfinished one in --out")
    text = "print all that would be used, as options that a file @NAME may hold, and train nothing"
    add("--print-config", action="store_true", help=text)
    add("--threads", type=positive, metavar="N", help="of a training step (all cores)")
    device(sub)
    _model(sub)
    _recipe(sub)


def _model(sub: argparse.ArgumentParser) -> None:
    config = ViTConfig(**DIGITS)
    text = f"{NOT_OF_THE_DIGITS}\nwith --from, the file's; what can be said is "
    text += ", ".join(option(name).removeprefix("--") for name in OF_A_FILE)
    group = sub.add_argument_group("the model", text)
    text = "pixels of an image, to which the data's are resized (8)"
    group.add_argument("--image-size", type=size, metavar="N|HxW", help=text)
    resize(group.add_argument)
    text = "units of each stage of a ResNet, as 3,4,9, its root alone, or none (none)"
    group.add_argument("--stem", type=stem, metavar="N,N|root|none", help=text)
    _field(group, config, "stem_width", positive, "channels of that root")
    _field(group, config, "patch_size", positive, "side of a patch, P, on the stem's map if any")
    _field(group, config, "width", positive, "of a token, D")
    _field(group, config, "depth", positive, "number of blocks, L")
    _field(group, config, "heads", positive, "of each attention, k")
    _field(group, config, "mlp_width", positive, "of the hidden layer, M")
    _choice(group, config, "positions", POSITIONS)
    _choice(group, config, "pooling", POOLINGS)
    _field(group, config, "hidden_head", positive, "width of a tanh layer before the classes")
    _choice(group, config, "gelu", GELUS)
    _field(group, config, "norm_eps", float, "in the layer norms")
    _field(group, config, "dropout", float, "rate")
    _field(group, config, "drop_path", float, "rate at which the last block is left out")
    _field(group, config, "position_std", float, "deviation of learned positions at first")
    text = f"{config.preprocessing}; DINO's and DeiT's files look like timm's"
    preprocess(group.add_argument, text)


def _recipe(sub: argparse.ArgumentParser) -> None:
    recipe = training.Recipe()
    text = f"{NOT_OF_THE_DIGITS},\nwith --from too"
    group = sub.add_argument_group("the recipe", text)
    _field(group, recipe, "epochs", positive, "times through all images")
    _field(group, recipe, "batch_size", positive, "images a step")
    _choice(group, recipe, "optimiser", training.OPTIMISERS)
    _field(group, recipe, "learning_rate", float, "the learning rate's peak")
    _field(group, recipe, "warmup", float, "epochs until it is reached")
    _choice(group, recipe, "schedule", training.SCHEDULES)
    _field(group, recipe, "weight_decay", float, "decoupled, kernels only")
    _field(group, recipe, "grad_clip", float, "largest norm of the gradient, 0 for any")
    _field(group, recipe, "label_smoothing", float, "of the labels")
    _field(group, recipe, "shift", int, "pixels to move images about by")
    _switch(group, recipe, "flip", "exchange left and right in half of the images")
    _field(group, recipe, "randaugment", int, "operations drawn at random for each image")
    _field(group, recipe, "randaugment_magnitude", float, "of these operations, 0 to 10")
    _field(group, recipe, "random_erasing", float, "the chance of an image to lose a box")
    _field(group, recipe, "mixup", float, "the Beta distribution's parameter, 0 for none")
    _field(group, recipe, "cutmix", float, "the Beta distribution's parameter, 0 for none")
    _field(group, recipe, "ema", float, "decay of an average of the weights, 0 for none")
    _field(
        group, recipe, "grad_accumulation", positive, "pieces a batch is done in, to save memory"
    )
    _field(group, recipe, "seed", int, "of all random numbers")
    _field(group, recipe, "shards", positive, "of a piece; None, as the cache suggests")
    _switch(group, recipe, "freeze", "train the head alone")


def _field(group: Any, defaults: Any, name: str, kind: Callable[[str], Any], text: str) -> None:
    text = f"{text} ({getattr(defaults, name)})"
    group.add_argument(option(name), dest=name, type=kind, metavar="X", help=text)


def _choice(group: Any, defaults: Any, name: str, choices: Any) -> None:
    group.add_argument(option(name), choices=list(choices), help=f"({getattr(defaults, name)})")


def _switch(group: Any, defaults: Any, name: str, text: str) -> None:
    text = f"{text} ({'yes' if getattr(defaults, name) else 'no'})"
    group.add_argument(option(name), action=argparse.BooleanOptionalAction, help=text)


def _words(line: str) -> list[str]:
    return shlex.split(line, comments=True)
