"""The parser of the command line, with one command per module.

The docstring of a module is the help of its command: a summary and examples.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..training.progress import RENAMED_FIELDS
from . import attention, cost, evaluate, exercise, gradcheck, predict, train
from .option_file import Origins, expand, format_error
from .options import option_name, suggestion

COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "attention": attention,
    "gradcheck": gradcheck,
    "cost": cost,
    "exercise": exercise,
}
ALIASES = {  # other common spellings
    "--optimizer": "--optimiser", "--opt": "--optimiser", "--learning-rate": "--lr",
    "--img-size": "--image-size", "--warmup-epochs": "--warmup", "--clip-grad": "--grad-clip",
    "--drop-path-rate": "--drop-path",
}  # fmt: skip


class ParserError(Exception):
    """The arguments cannot be parsed. The message starts with the name of the command."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ParserError instead of exiting."""

    color = False  # from Python 3.14: `SafeStream` would escape the colour codes of the help

    def error(self, message: str) -> NoReturn:
        """Raise ParserError."""
        raise ParserError(self.prog, message)

    def report_unknown(self, word: str) -> NoReturn:
        """Report an unknown option or an unexpected argument, and exit."""
        if not word.startswith("-"):
            self.error(f"unexpected argument '{word}'; see `{self.prog} --help`")
        name = word.partition("=")[0]
        field = RENAMED_FIELDS.get(name.removeprefix("--"))  # an option of version 0.1.0
        options = re.findall(r"--[a-z-]+", self.format_usage())
        hint = suggestion(option_name(field) if field else name, options)
        self.error(f"unknown option '{name}'; {hint or f'see `{self.prog} --help`'}")


def normalise(word: str) -> str:
    """Replace underscores in the name of an option by dashes, and other spellings of the name."""
    if not word.startswith("--"):
        return word
    name, separator, value = word.partition("=")
    name = name.replace("_", "-")
    return ALIASES.get(name, name) + separator + value


def build_parser() -> Parser:
    """Return the parser of all commands. It stores the name of the command in `args.command`."""
    parser = Parser(
        prog="minivit",
        description="Train, evaluate, verify and visualise Vision Transformers.",
        epilog="`python -m minivit COMMAND --help` lists the options of a command, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"minivit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary, _, examples = (module.__doc__ or "").partition("\n\n")
        sub = commands.add_parser(
            name,
            help=summary[:1].lower() + summary[1:].rstrip("."),
            description=summary,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=name, parser=sub)
        module.add_arguments(sub)
    return parser


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the arguments, by default those of the process. Exit with status 2 on an error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser, origins = build_parser(), {}
    if not arguments:
        parser.print_help()
        parser.exit(2)
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            word = arguments[0]
            hint = suggestion(word, COMMANDS) or "see `minivit --help`"
            parser.error(f"unknown command '{word}'; {hint}")
        if arguments[:1] == ["train"]:
            arguments, origins = expand_files(arguments)
        end = [*arguments, "--"].index("--")  # the words after it are not options
        arguments = [*map(normalise, arguments[:end]), *arguments[end:]]
        origins = {normalise(name): origin for name, origin in origins.items()}
        if dashes := [word for word in arguments if word.endswith("=--")]:  # argparse drops the --
            parser.error(f"argument {dashes[0][:-3]}: expected a value, not '--'")
        args, unknown = parser.parse_known_args(arguments)
        if unknown:
            args.parser.report_unknown(unknown[0])
    except ParserError as error:
        program, message = error.args
        parser.exit(2, format_error(program, message, origins) + "\n")
    args.origins = origins
    return args


def expand_files(arguments: Sequence[str]) -> tuple[list[str], Origins]:
    """Expand the @FILE arguments. Raise ParserError if a file cannot be read."""
    try:
        return expand(arguments)
    except OSError as error:
        message = f"@{error.filename}: {error.strerror}"
    except ValueError as error:
        message = str(error)
    raise ParserError("minivit train", message)
