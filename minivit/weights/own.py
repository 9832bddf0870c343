"""minivit's own checkpoints: arrays under their names in a .npz or .safetensors file.

`config` is the configuration as JSON; `params/blocks/0/...` are the parameters. While a training
runs, `training/...` holds what it needs to go on: that part is the training's own business.
"""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array, to_host
from ..models import ViTConfig, parameter_specs
from ..tree import Tree, flatten, unflatten
from .files import CheckpointError, read_arrays, read_text, write_arrays


def save(
    path: str | Path, config: ViTConfig, params: Tree, training: dict[str, Array] | None = None
) -> None:
    """Write a checkpoint under a temporary name, then rename it: it is there whole, or not at all.

    Raises OSError if the folder cannot be written.
    """
    arrays = {f"params/{name}": to_host(leaf) for name, leaf in flatten(params).items()}
    arrays |= {f"training/{name}": to_host(leaf) for name, leaf in (training or {}).items()}
    write_arrays(path, arrays, to_json(config))


def read_progress(path: str | Path) -> dict[str, Any] | None:
    """Read the progress of an interrupted training without loading the other arrays.

    Returns None if the training is complete. Raises CheckpointError if the file is damaged.
    """
    text = read_text(path, "training/progress")
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as reason:
        raise CheckpointError(f"{path}: 'training/progress' is not JSON: {reason}") from None


def load_training(path: str | Path) -> dict[str, Array]:
    """Load the vectors that an interrupted training needs to resume; empty if it is complete."""
    prefix, (arrays, _) = "training/", read_arrays(path)
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def is_own(arrays: dict[str, Array]) -> bool:
    """Whether the names of a file's arrays are minivit's own."""
    return any(name.startswith(("params/blocks/", "params/patch_embedding/")) for name in arrays)


def own_model(
    path: Path, arrays: dict[str, Array], text: str | None, fields: dict[str, Any]
) -> tuple[ViTConfig, Tree]:
    """The configuration, with `fields` replaced, and the tree of parameters.

    Raises CheckpointError for a file that lacks an array, has one too many, or of a wrong shape,
    or with NaNs.
    """
    if text is None:
        raise CheckpointError(f"{path} is no minivit checkpoint: it has no 'config'")
    config = config_from(path, text, fields, len(arrays))
    flat = {n.removeprefix("params/"): a for n, a in arrays.items() if n.startswith("params/")}
    _check(path, flat, config)
    return config, unflatten(flat)


def to_json(config: ViTConfig) -> str:
    """A configuration as text."""
    return json.dumps(dataclasses.asdict(config))


def config_from(path: Path, text: str, fields: dict[str, Any], arrays: int) -> ViTConfig:
    """The configuration of a text, with some fields replaced, for a file of so many arrays.

    Raises CheckpointError if it is no configuration, or not with these fields.
    """
    try:
        config = ViTConfig(**json.loads(text) | fields)
        if config.depth + sum(config.stem or ()) > arrays:  # before they are all listed
            raise ValueError(f"it has more blocks than there are arrays, {arrays}")
    except (TypeError, ValueError, RecursionError) as reason:
        raise CheckpointError(f"{path}: its 'config' cannot be used: {reason}") from None
    return config


def _check(path: Path, flat: dict[str, Array], config: ViTConfig) -> None:
    expected = {name: p.shape for name, p in flatten(parameter_specs(config)).items()}
    for name in expected.keys() - flat.keys():
        raise CheckpointError(f"{path}: the array '{name}' is missing")
    for name in flat.keys() - expected.keys():
        raise CheckpointError(f"{path}: the array '{name}' is unknown")
    usual = Counter(array.dtype for array in flat.values()).most_common(1)[0][0]
    for name, array in flat.items():
        if array.dtype.kind != "f" or array.dtype != usual:
            raise CheckpointError(
                f"{path}: its arrays are not all floats of one kind: '{name}' holds {array.dtype}"
            )
        if array.shape != expected[name]:
            raise CheckpointError(f"{path}: '{name}' is {array.shape}, expected {expected[name]}")
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: '{name}' has entries that are NaN or infinite")
