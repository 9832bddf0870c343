"""What a training would use, written as the very options that ask for it."""

import argparse
import dataclasses
import shlex
from typing import Any

from ..api import ViT
from ..models import ViTConfig
from ..options.parts import as_written, option
from ..options.train import OF_A_FILE
from ..training import Recipe
from ..tree import count_parameters


def as_options(args: argparse.Namespace, model: ViT, recipe: Recipe) -> str:
    """One "--name value" a line, for a file that `train @FILE` reads.

    What is not set, or cannot be by an option, or is idle, stands behind a # as a remark: None,
    the data's channels and classes or, with --from, most of the model.
    """
    unheard = idle(model.config, recipe)
    fields, settings = dataclasses.asdict(model.config), dataclasses.asdict(recipe)
    sayable = [name for name in OF_A_FILE if name in fields] if args.origin else vars(args)
    lines = [said("data", as_written(args.data)), said("out", args.out)]
    lines += [said("threads", args.threads), said("device", args.device)]
    lines += [said("precision", args.precision)]
    if args.origin:
        lines += [said("from", args.origin), said("resize", args.resize)]
    known = {name: fields[name] for name in fields if name in sayable} | settings
    lines += ["# " * (name in unheard) + said(name, value) for name, value in known.items()]
    lines += [f"# {name} {fields[name]}" for name in fields if name not in sayable]
    return "\n".join([*lines, f"# parameters {count_parameters(model.params):,}"])


def idle(config: ViTConfig, recipe: Recipe) -> dict[str, str]:
    """Fields that say more of something which is off, and the option that turns it on."""
    unheard = {} if recipe.randaugment else {"randaugment_magnitude": "--randaugment"}
    return unheard if config.stem is not None else unheard | {"stem_width": "--stem"}


def said(name: str, value: Any) -> str:
    """A value as the option that sets it."""
    if name == "stem":
        value = "none" if value is None else ",".join(map(str, value)) or "root"
    if value is None:
        return f"# {option(name)} None"
    if isinstance(value, bool):
        return option(name) if value else f"--no-{name}"
    if name == "image_size":
        H, W = value
        value = H if H == W else f"{H}x{W}"
    return f"{option(name)} {shlex.quote(str(value))}"
