"""The parser of the command line, and the options of the commands that have only a few."""

import argparse
from typing import Any

from .. import __version__
from .cost import cost
from .looking import attention, evaluate, predict
from .parts import command, device
from .train import train


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `args.command` is the name of the one that was chosen."""
    parser = argparse.ArgumentParser(
        prog="python -m minivit",
        description="The Vision Transformer from scratch: train it, check it, look inside.",
        epilog="`python -m minivit COMMAND --help` tells more, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"minivit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    train(commands)
    evaluate(commands)
    predict(commands)
    attention(commands)
    gradcheck(commands)
    cost(commands)
    exercise(commands)
    return parser


def gradcheck(commands: Any) -> None:
    """`gradcheck`: which functions, and in how much detail."""
    sub = command(
        commands,
        "gradcheck",
        "Compare every pullback with the complex step: the worst error of each argument.",
        [
            "gradcheck", "gradcheck layer_norm", "gradcheck ViT relative --all",
            "gradcheck --device gpu",
        ],
    )  # fmt: skip
    sub.add_argument("words", nargs="*", metavar="WORD", help="only names with all of these")
    sub.add_argument("--all", action="store_true", help="a row for each array of a model")
    device(sub, products=False)


def exercise(commands: Any) -> None:
    """`exercise`: of which chapter, and whether to begin it, grade it, or look it up."""
    sub = command(
        commands,
        "exercise",
        "Grade what you wrote for an exercise of the book; without a chapter, list them all.",
        ["exercise", "exercise 4 --start", "exercise 4", "exercise 4 --hint 2", "exercise a"],
    )
    sub.add_argument("chapter", nargs="?", metavar="CHAPTER", help="from 0 to 18, or A")
    what = sub.add_mutually_exclusive_group()
    add = what.add_argument
    add("--start", action="store_true", help="put its frame into the folder exercises/")
    levels = {"type": int, "choices": (1, 2, 3), "nargs": "?", "const": 1}
    add("--hint", **levels, help="help a little; 2 helps more, 3 a lot (1)")
    add("--solution", action="store_true", help="print a solution")
