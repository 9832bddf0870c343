"""minivit's own checkpoints: one .npz file, arrays under their names, no pickled objects.

`config` is the configuration as JSON; `params/blocks/0/...` are the parameters. While a training
runs, `training/...` holds what it needs to go on: that part is the training's own business.
"""

import dataclasses
import json
import os
import tempfile
import zipfile
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
    try:
        _write(path, arrays)
    except OSError as error:  # of the temporary file, which nobody has heard of
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


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
    except (TypeError, ValueError, RecursionError) as reason:
        raise CheckpointError(f"{path}: its 'config' cannot be used: {reason}") from None
    flat = {n.removeprefix("params/"): a for n, a in arrays.items() if n.startswith("params/")}
    _check(path, flat, config)
    return config, unflatten(flat)


def load_training(path: str | Path) -> dict[str, Array]:
    """What a training left in the checkpoint to go on from; empty if it came to its end."""
    prefix = "training/"
    return {n.removeprefix(prefix): a for n, a in _read(path).items() if n.startswith(prefix)}


def _write(path: Path, arrays: dict[str, Array]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)  # interrupted after the renaming: it is gone
            raise


def _read(path: str | Path) -> dict[str, Array]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise CheckpointError(f"{path} is no .npz file, or only the beginning of one")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except Exception as reason:  # each of zipfile, zlib and NumPy's parser has its own kinds
            if "allow_pickle" in str(reason):
                refusal = f"{path} holds pickled objects: refused, for they can run code"
                raise CheckpointError(refusal) from None
            raise CheckpointError(f"{path} is damaged: {' '.join(str(reason).split())}") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy hands on whatever else is in the archive
            raise CheckpointError(f"{path} is damaged: '{name}' is no array")
    return arrays


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
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: '{name}' has entries that are NaN or infinite")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
