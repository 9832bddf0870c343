"""The two kinds of file that hold arrays under names: .npz and .safetensors.

Both may carry a model's configuration as text: an .npz file as an array of the name `config`, a
.safetensors file among its metadata. Whoever does not know of it overlooks it.
"""

import json
import math
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from ..arrays import Array

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
DTYPES = {"BF16": "V2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
CONVERT = (
    "import torch, safetensors.torch as s; t = torch.load('{0}', weights_only=True); "
    "s.save_file(t.get('model', t), '{1}')"
)


class CheckpointError(ValueError):
    """A file that is no whole model. The message names the file, the array, and what is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # one line, whatever a name holds


def read_arrays(path: str | Path) -> tuple[dict[str, Array], str | None]:
    """The arrays of a file by name, and the text of its configuration if it carries one.

    bfloat16, which NumPy does not know, becomes float32. Raises FileNotFoundError, or
    CheckpointError if the file is not whole, holds pickled objects (which are never run), or what
    is no array.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix.lower() in PICKLES:
        stem = "model" if path.stem == "pytorch_model" else path.stem  # as folders have it
        command = CONVERT.format(path, path.with_name(stem + ".safetensors"))
        raise CheckpointError(
            f"{path} is pickled, and so can run code: convert it where PyTorch is installed, by "
            f'python -c "{command}"'
        )
    arrays, config = (_read_safetensors if is_safetensors(path) else _read_npz)(path)
    if not arrays:
        raise CheckpointError(f"{path} holds no arrays")
    return {name: to_native(array) for name, array in arrays.items()}, config


def write_arrays(path: str | Path, arrays: dict[str, Array], config: str) -> None:
    """Write a .npz or a .safetensors file, whole or not at all.

    Raises OSError if the folder cannot be written, ValueError for a name that says it is pickled.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise ValueError(f"{path} is a name for pickles: choose one in .npz or .safetensors")
    if is_safetensors(path):
        compact = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        metadata = {"format": "pt", "config": config}  # without a format others refuse the file
        write_atomically(path, lambda file: _save_safetensors(compact, file.name, metadata))
    else:
        write_atomically(path, lambda file: np.savez(file, config=np.array(config), **arrays))


def read_text(path: str | Path, name: str) -> str | None:
    """Read one text entry of a .npz file without loading its other arrays; None if there is none.

    Raises CheckpointError if the file is damaged.
    """
    path = Path(path)
    entry = {} if is_safetensors(path) else _read_npz(path, lambda n: n == name)[0]
    return str(entry[name]) if name in entry else None


def is_safetensors(path: Path) -> bool:
    """Whether a file is of this kind, by its name."""
    return path.suffix.lower() == ".safetensors"


def write_atomically(path: Path, fill: Callable[[Any], None]) -> None:
    """Let `fill` write a file of a temporary name, then rename it: it is there whole, or not.

    Raises OSError if the folder cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o666 & ~_umask())
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)  # interrupted after the renaming: it's gone
                raise
    except OSError as error:  # of the temporary file, which nobody has heard of
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def to_native(array: Array) -> Array:
    """An array in the byte order of this machine, and no longer in bfloat16: (...)  ->  (...)

    Two raw bytes of bfloat16 are the upper half of a float32.
    """
    if array.dtype == "V2":
        array = (array.view("<u2").astype("<u4") << 16).view("<f4")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_npz(
    path: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Array], str | None]:
    """Read the arrays of a .npz file whose names are wanted, and its configuration."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            hint = "" if path.suffix == ".npz" else " (the other format ends in .safetensors)"
            raise CheckpointError(f"{path} is not a complete .npz file{hint}")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                duplicates = [name for name, n in Counter(archive.files).items() if n > 1]
                if duplicates:
                    raise ValueError(f"it contains '{duplicates[0]}' twice")
                arrays = {name: archive[name] for name in archive.files if wanted(name)}
        except Exception as reason:  # zipfile, zlib and NumPy's parser raise many types
            if "allow_pickle" in str(reason):
                message = f"{path} contains pickled objects, which can run code: refused"
                raise CheckpointError(message) from None
            raise CheckpointError(f"{path} is damaged: {' '.join(str(reason).split())}") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy returns other archive members as bytes
            raise CheckpointError(f"{path} is damaged: '{name}' is not an array")
    config = arrays.pop("config", None)
    return arrays, None if config is None else str(config)


def _read_safetensors(path: Path) -> tuple[dict[str, Array], str | None]:
    """The library checks the file; the arrays are views of it, read when they are looked at.

    Writing into them changes the memory only: the mapping is private.
    """
    open(path, "rb").close()  # the library says of what may not be read that it is not there
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as reason:
        where = _misplaced(path) or " ".join(str(reason).split())
        raise CheckpointError(f"{path} is damaged: {where}") from None
    raw = np.asarray(np.memmap(path, mode="c"))
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    tensors = json.loads(raw[8:start].tobytes())
    tensors.pop("__metadata__", None)
    arrays = {}
    for name, tensor in tensors.items():
        if tensor["dtype"] not in DTYPES:
            raise CheckpointError(f"{path}: '{name}' is {tensor['dtype']}, expected floats")
        first, last = tensor["data_offsets"]
        array = raw[start + first : start + last].view(DTYPES[tensor["dtype"]])
        try:
            arrays[name] = np.require(array.reshape(tensor["shape"]), requirements="A")
        except ValueError as reason:  # more axes than NumPy has
            raise CheckpointError(f"{path}: '{name}' is no array here: {reason}") from None
    return arrays, metadata.get("config")


def _misplaced(path: Path) -> str | None:
    """Which array lies where it cannot, in a file that the library refuses without a name."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            tensors = json.loads(file.read(min(length, 10**8)))  # the library reads no more
        tensors.pop("__metadata__", None)
        size = path.stat().st_size - 8 - length
        if size < 0:
            return None
        for name, tensor in tensors.items():
            first, last = tensor["data_offsets"]
            if last > size:
                return f"'{name}' ends at byte {last} of the data, which has {size}"
            item = np.dtype(DTYPES[tensor["dtype"]]).itemsize
            if last - first != math.prod(tensor["shape"]) * item:
                return f"'{name}' of shape {tuple(tensor['shape'])} lies in {last - first} bytes"
    except Exception:  # what the library has said must do
        return None
    return None


def _save_safetensors(arrays: dict[str, Array], name: str, metadata: dict[str, str]) -> None:
    try:
        save_file(arrays, name, metadata)
    except safetensors.SafetensorError as reason:  # a full disk, for one
        raise OSError(str(reason)) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
