"""The options of `cost`. Each field of ViTConfig that changes it has one of its name."""

import argparse
from pathlib import Path
from typing import Any

from ..models.config import GELUS, POOLINGS, POSITIONS
from ..training import OPTIMISERS
from .parts import command, device, positive, size, stem

DTYPES = ("float32", "float64", "float16")


def cost(commands: Any) -> None:
    """`cost`: of which model, on how large a batch, and whether it is also measured."""
    sub = command(
        commands,
        "cost",
        "Tell what each layer of a model costs: parameters, products and memory.",
        [
            "cost", "cost ViT-Ti/4 --image-size 32 --classes 10 --batch-size 64 --measure",
            "cost R50+ViT-B/16 --batch-size 1 --csv cost.csv",
            "cost ViT-B/16 --depth 6 --width 192 --heads 3 --mlp-width 768",
        ],
    )  # fmt: skip
    add = sub.add_argument
    text = "ViT-{Ti,S,B,L,H}/PATCH or a hybrid such as R50+ViT-B/16 (ViT-B/16)"
    add("model", nargs="?", default="ViT-B/16", metavar="NAME", help=text)
    add("--batch-size", type=positive, default=64, metavar="N", help="images at a time (64)")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help=f"of all arrays ({DTYPES[0]})")
    text = "run the layers as well, and a step, and see how long they take and what they keep"
    add("--measure", action="store_true", help=text)
    device(sub)
    add("--csv", type=Path, metavar="FILE", help="write the table there too, in whole numbers")
    _fields(sub)
    step = sub.add_argument_group("a step of training").add_argument
    step("--optimiser", choices=list(OPTIMISERS), default="adamw", help="(adamw)")
    step("--shards", type=positive, metavar="N", help="pieces of a batch (as the cache suggests)")
    step("--threads", type=positive, metavar="N", help="how many to use (all cores)")


def _fields(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument_group("the model", "by default as its name says").add_argument
    add("--image-size", type=size, metavar="N|HxW", help="pixels of an image (224)")
    add("--classes", type=_count, metavar="N", help="K; 0 for no classifier (1000)")
    add("--channels", type=positive, metavar="N", help="of an image, C (3)")
    add("--patch-size", type=positive, metavar="N", help="side of a patch, P")
    add("--width", type=positive, metavar="N", help="of a token, D")
    add("--depth", type=positive, metavar="N", help="number of blocks, L")
    add("--heads", type=positive, metavar="N", help="of each attention, k")
    add("--mlp-width", type=positive, metavar="N", help="of the hidden layer, M")
    add("--hidden-head", type=positive, metavar="N", help="a tanh layer before the classes (none)")
    add("--positions", choices=list(POSITIONS), help="(1d)")
    add("--pooling", choices=list(POOLINGS), help="(class)")
    add("--gelu", choices=list(GELUS), help="(tanh)")
    add("--dropout", type=float, metavar="X", help="rate; its masks are kept (0)")
    add("--drop-path", type=float, metavar="X", help="rate of the last block (0)")
    yes_or_no = argparse.BooleanOptionalAction
    add("--qkv-bias", action=yes_or_no, default=None, help="of queries, keys and values (yes)")
    add("--patch-bias", action=yes_or_no, default=None, help="of the patch embedding (yes)")
    text = "units of each stage of a ResNet, as 3,4,9, its root alone, or none"
    add("--stem", type=stem, metavar="N,N|root|none", help=text)
    add("--stem-width", type=positive, metavar="N", help="channels of its root (64)")


def _count(text: str) -> int:
    return 0 if text == "0" else positive(text)
