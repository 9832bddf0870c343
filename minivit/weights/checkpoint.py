"""minivit's own checkpoints: one .npz file, arrays under their names, no pickled objects.

`config` is the configuration as JSON; `params/blocks/0/...` are the parameters. While a training
runs, `training/...` holds what it needs to go on: that part is the training's own business.
"""

import dataclasses
import json
import math
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array, to_host
from ..models import ViTConfig, parameters
from ..tree import flatten, unflatten


class CheckpointError(ValueError):
    """A file that is no whole checkpoint. The message names the file and what is wrong."""


def save(
    path: str | Path,
    config: ViTConfig,
    params: dict[str, Any],
    training: dict[str, Array] | None = None,
) -> None:
    """Write a checkpoint under a temporary name, then rename it: it is there whole, or not at all.

    Raises OSError if the folder cannot be written.
    """
    path = Path(path)
    arrays = {"config": np.array(json.dumps(dataclasses.asdict(config)))}
    arrays |= {f"params/{name}": to_host(leaf) for name, leaf in flatten(params).items()}
    arrays |= {f"training/{name}": to_host(leaf) for name, leaf in (training or {}).items()}
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def load(path: str | Path) -> tuple[ViTConfig, dict[str, Any]]:
    """The configuration and the tree of parameters.

    Raises FileNotFoundError, or CheckpointError for a file that is truncated, holds pickled
    objects (they are refused, never run), lacks an array, has one too many, or of a wrong shape,
    or with NaNs.
    """
    arrays = _read(path)
    try:
        fields = json.loads(str(arrays["config"]))
        config = ViTConfig(**fields)
    except KeyError:
        raise CheckpointError(f"{path} is no minivit checkpoint: it has no 'config'") from None
    except (TypeError, ValueError) as reason:
        raise CheckpointError(f"{path}: its 'config' cannot be used: {reason}") from None
    flat = {n.removeprefix("params/"): a for n, a in arrays.items() if n.startswith("params/")}
    _check(path, flat, config)
    return config, unflatten(flat)


def load_training(path: str | Path) -> dict[str, Array]:
    """What a training left in the checkpoint to go on from; empty if it came to its end."""
    prefix = "training/"
    return {n.removeprefix(prefix): a for n, a in _read(path).items() if n.startswith(prefix)}


def _read(path: str | Path) -> dict[str, Array]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is no .npz file, or only the beginning of one")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as reason:
        raise CheckpointError(f"{path} is damaged: {reason}") from None
    except ValueError as reason:
        if "allow_pickle" in str(reason):
            refusal = f"{path} holds pickled objects: refused, for they can run code"
            raise CheckpointError(refusal) from None
        raise CheckpointError(f"{path} is damaged: {reason}") from None


def _check(path: str | Path, flat: dict[str, Array], config: ViTConfig) -> None:
    expected = {name: p.shape for name, p in flatten(parameters(config)).items()}
    for name in expected.keys() - flat.keys():
        raise CheckpointError(f"{path}: the array '{name}' is missing")
    for name in flat.keys() - expected.keys():
        raise CheckpointError(f"{path}: the array '{name}' is unknown")
    dtypes = {array.dtype for array in flat.values()}
    if len(dtypes) > 1 or dtypes.pop().kind != "f":
        raise CheckpointError(f"{path}: its arrays are not all floats of one kind")
    for name, array in flat.items():
        if array.shape != expected[name]:
            raise CheckpointError(f"{path}: '{name}' is {array.shape}, expected {expected[name]}")
        if not math.isfinite(array.sum(dtype="float64")):
            raise CheckpointError(f"{path}: '{name}' has entries that are NaN or infinite")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
