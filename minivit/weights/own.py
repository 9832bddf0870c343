"""minivit's checkpoints: .npz or .safetensors files with its own names.

`config` is the configuration as JSON, `params/blocks/0/...` are the parameters. `training/log`
(E, 7) contains the rows of a training run's log. For an interrupted run, `training/progress`
contains its progress as JSON, and the other arrays in `training/` are the vectors needed to resume
it.
"""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..arrays import Array, to_host
from ..models import ViTConfig, parameter_specs
from ..tree import Tree, flatten
from .files import CheckpointError, read_arrays, write_arrays
from .layouts import Entry, Shapes, Spelling

DEFAULTS: dict[str, Any] = {}
PROGRESS = "training/progress"
TRAINING = (PROGRESS, *(f"training/{name}" for name in ("log", "m", "v", "running")))


def save(
    path: str | Path, config: ViTConfig, params: Tree, training: dict[str, Array] | None = None
) -> None:
    """Write a checkpoint atomically. Raises OSError if the folder cannot be written."""
    arrays = {f"params/{name}": to_host(leaf) for name, leaf in flatten(params).items()}
    arrays |= {f"training/{name}": to_host(leaf) for name, leaf in (training or {}).items()}
    write_arrays(path, arrays, json.dumps(dataclasses.asdict(config)))


def read_progress(path: str | Path) -> dict[str, Any] | None:
    """Read the progress of an interrupted run without loading the other arrays.

    Returns None if the run is complete. Raises CheckpointError if the file is damaged.
    """
    arrays, _ = read_arrays(path, lambda headers, _: headers.keys() & {PROGRESS})
    if PROGRESS not in arrays:
        return None
    try:
        progress = json.loads(str(arrays[PROGRESS]))
    except (ValueError, RecursionError):
        progress = None
    if not isinstance(progress, dict):
        raise CheckpointError(f"{path}: '{PROGRESS}' is not a JSON object")
    return progress


def read_config(path: str | Path) -> ViTConfig:
    """Read the configuration in a minivit checkpoint without loading arrays."""
    _, config = read_arrays(path, lambda headers, _: set())
    return from_json(config or "", {}, 10**9)


def load_training(path: str | Path) -> dict[str, Array]:
    """Load the log of a training run and, if it was interrupted, the vectors needed to resume."""
    arrays, _ = read_arrays(path, lambda headers, _: headers.keys() & set(TRAINING))
    return {name.removeprefix("training/"): array for name, array in arrays.items()}


def from_json(text: str, fields: dict[str, Any], arrays: int) -> ViTConfig:
    """Parse a configuration and replace `fields`. The file contains `arrays` arrays.

    Raises ValueError if it is not a configuration, or if the fields do not fit it.
    """
    try:
        config = ViTConfig(**json.loads(text))
        if config.depth + sum(config.stem or ()) > arrays:  # do not list billions of blocks
            raise ValueError(f"it has more blocks than the file has arrays ({arrays})")
    except (TypeError, ValueError, RecursionError) as reason:
        raise ValueError(f"its 'config' is not valid: {reason}") from None
    return dataclasses.replace(config, **fields)


def find_spelling(names: Collection[str]) -> Spelling | None:
    """Return the spelling of minivit's names in a file, or None if it has none."""
    own = any(name.startswith(("params/blocks/", "params/patch_embedding/")) for name in names)
    return Spelling("params/", ignored=tuple(f"{name}/" for name in TRAINING)) if own else None


def infer_config(shapes: Shapes) -> dict[str, Any]:
    """Raise ValueError: the shapes of minivit's arrays do not determine the patch size."""
    raise ValueError("the 'config' of this minivit checkpoint is missing")


def names(config: ViTConfig) -> dict[str, Entry]:
    """Return the entry of each leaf."""
    specs = flatten(parameter_specs(config))
    return {n: Entry((n,), p.shape, tuple(range(len(p.shape)))) for n, p in specs.items()}
