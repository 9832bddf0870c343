"""`train --print-config`: print the configuration as options for `train @FILE`."""

import argparse
import dataclasses
import shlex
from collections.abc import Iterable
from typing import Any

from ..api import ViT
from ..models import ViTConfig
from ..training import Recipe
from ..tree import count_parameters
from .options import format_value, option_name


def format_config(
    args: argparse.Namespace, model: ViT, recipe: Recipe, configurable: Iterable[str]
) -> str:
    """Return one option per line, or a comment for a value that the options do not set.

    Comments are values of None, options without effect, and fields of the model that are not
    `configurable`, because the data set or the file of --from determines them.
    """
    fields, settings = dataclasses.asdict(model.config), dataclasses.asdict(recipe)
    names = "data", "out", "threads", "max_pixels", "device"
    values = {name: getattr(args, name) for name in names}
    values["precision"] = args.precision
    if args.origin:
        values |= {"from": args.origin, "resize": getattr(args, "resize", None)}
    unused = unused_fields(model.config, recipe)
    values |= {name: fields[name] for name in fields if name in configurable} | settings
    lines = ["# " * (name in unused) + format_option(name, x) for name, x in values.items()]
    lines += [f"# {name} {fields[name]}" for name in fields if name not in configurable]
    return "\n".join([*lines, f"# parameters {count_parameters(model.params):,}"])


def format_option(name: str, value: Any) -> str:
    """Return the option that sets a value."""
    if isinstance(value, bool):
        return option_name(name) if value else f"--no-{name}"
    if value is None and name != "stem":
        return f"# {option_name(name)} None"
    text = format_value(name, value)
    separator = "=" if text.startswith(("-", "@")) else " "  # not parsed as an option or a file
    return f"{option_name(name)}{separator}{shlex.quote(text)}"


def unused_fields(config: ViTConfig, recipe: Recipe) -> dict[str, str]:
    """Return the fields that have no effect, each with the option that it requires."""
    unused = {} if recipe.randaugment else {"randaugment_magnitude": "--randaugment"}
    return unused if config.stem is not None else unused | {"stem_width": "--stem"}
