"""Read and write files of named arrays: .npz and .safetensors.

Both may contain the configuration of a model as JSON: an .npz file in an array named `config`, a
.safetensors file in its metadata. Other programs ignore it.
"""

import json
import math
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from ..arrays import Array

SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
DTYPES = {"BF16": "V2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}  # of .safetensors
MAX_HEADER = 100_000_000  # bytes; limit of the safetensors library
CONVERT = (
    "import torch, safetensors.torch as s; t = torch.load('{0}', weights_only=True); "
    "s.save_file(t.get('model', t), '{1}')"
)


class CheckpointError(ValueError):
    """A file is not a complete, valid model. The message is one line that names file and array."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # names may contain line breaks


def read_arrays(path: str | Path, only: str | None = None) -> tuple[dict[str, Array], str | None]:
    """Read all arrays of a file, or `only` the named one, and its configuration as JSON or None.

    bfloat16, which NumPy does not have, becomes float32. Raises FileNotFoundError, or
    CheckpointError if the file is damaged or contains pickled objects, which are never loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix.lower() in PICKLES:
        stem = "model" if path.stem == "pytorch_model" else path.stem  # as `load` expects
        command = CONVERT.format(path, path.with_name(stem + ".safetensors"))
        raise CheckpointError(
            f"{path} is pickled, and loading it could run code. Convert it where PyTorch is "
            f'installed: python -c "{command}"'
        )
    if path.suffix.lower() == SAFETENSORS:
        arrays, config = _read_safetensors(path)
    else:
        arrays, config = _read_npz(path, only)
    if not arrays and only is None:
        raise CheckpointError(f"{path} contains no arrays")
    return {name: _to_native(array) for name, array in arrays.items()}, config


def write_arrays(path: str | Path, arrays: Mapping[str, Array], config: str) -> None:
    """Write a .npz or .safetensors file atomically.

    Raises OSError if it cannot be written, ValueError for the suffix of a pickled file.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise ValueError(f"{path.suffix} is for pickled files: use .npz or .safetensors")
    if path.suffix.lower() == SAFETENSORS:
        write_atomically(path, lambda file: _write_safetensors(file.name, arrays, config))
    else:
        write_atomically(path, lambda file: np.savez(file, config=np.array(config), **arrays))


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Call write(file) with a temporary file, then rename it: an old file is replaced as a whole.

    Raises OSError if the folder cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                write(file)
                file.flush()
                os.fsync(file.fileno())
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(file.name, 0o666 & ~mask)
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)  # missing if interrupted after the rename
                raise
    except OSError as error:  # name the file and not the temporary one
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def _to_native(array: Array) -> Array:
    """Convert to native byte order, and bfloat16, the upper half of a float32, to float32."""
    if array.dtype == "V2":
        array = (array.view("<u2").astype("<u4") << 16).view("<f4")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_npz(path: Path, only: str | None) -> tuple[dict[str, Array], str | None]:
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            hint = "" if path.suffix == ".npz" else f" (the other format ends in {SAFETENSORS})"
            raise CheckpointError(f"{path} is not a complete .npz file{hint}")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                duplicates = [name for name, n in Counter(archive.files).items() if n > 1]
                if duplicates:
                    raise ValueError(f"it contains '{duplicates[0]}' twice")
                arrays = {n: archive[n] for n in archive.files if only is None or n == only}
        except Exception as reason:  # zipfile, zlib and NumPy's parser raise many types
            damage = f"is damaged: {' '.join(str(reason).split())}"
            if "allow_pickle" in str(reason):
                damage = "contains pickled objects, which are never loaded"
            raise CheckpointError(f"{path} {damage}") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy returns other members as bytes
            raise CheckpointError(f"{path} is damaged: '{name}' is not an array")
    config = arrays.pop("config", None)
    return arrays, None if config is None else str(config)


def _read_safetensors(path: Path) -> tuple[dict[str, Array], str | None]:
    """Validate a file with the safetensors library and map its arrays into memory.

    The library cannot return bfloat16 to NumPy. The mapping is private: writing into an array does
    not change the file.
    """
    open(path, "rb").close()  # raises PermissionError, which the library reports as a missing file
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as reason:
        damage = _find_damage(path) or " ".join(str(reason).split())
        raise CheckpointError(f"{path} is damaged: {damage}") from None
    raw, arrays = np.asarray(np.memmap(path, mode="c")), {}
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8:start].tobytes())
    for name in [name for name in header if name != "__metadata__"]:
        dtype, shape = header[name]["dtype"], header[name]["shape"]
        first, last = header[name]["data_offsets"]
        if dtype not in DTYPES:
            raise CheckpointError(f"{path}: '{name}' has dtype {dtype}, expected floats")
        try:
            array = raw[start + first : start + last].view(DTYPES[dtype]).reshape(shape)
        except ValueError as reason:  # more axes than NumPy supports
            raise CheckpointError(f"{path} is damaged: '{name}': {reason}") from None
        arrays[name] = np.require(array, requirements="A")
    return arrays, metadata.get("config")


def _find_damage(path: Path) -> str | None:
    """Describe the first array that does not fit the file. Return None if there is none."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, MAX_HEADER)))
        size = path.stat().st_size - 8 - length
        for name in [name for name in header if name != "__metadata__"]:
            first, last = header[name]["data_offsets"]
            needed = (
                math.prod(header[name]["shape"]) * np.dtype(DTYPES[header[name]["dtype"]]).itemsize
            )
            if size >= 0 and (last > size or last - first != needed):
                return f"'{name}' needs {needed} bytes; its range is {first} to {last} of {size}"
    except Exception:  # then the library's message is reported
        return None
    return None


def _write_safetensors(name: str, arrays: Mapping[str, Array], config: str) -> None:
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {"format": "pt", "config": config}  # other programs require a format
    try:
        save_file(contiguous, name, metadata)
    except safetensors.SafetensorError as reason:  # for example a full disk
        raise OSError(str(reason)) from None
