"""Read and write files of named arrays: .npz and .safetensors.

Both may contain the configuration of a model as JSON: an .npz file in an array named `config`, a
.safetensors file in its metadata. Other programs ignore it.
"""

import json
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.lib import format as npy
from safetensors.numpy import save_file

from ..arrays import Array
from ..files import FileError, is_system_error, write_atomically

SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
DTYPES = {"BF16": "V2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}  # of .safetensors
MAX_HEADER = 100_000_000  # bytes; limit of the safetensors library
# An .npz file may unpack to MAX_EXPANSION times its size, and always to ALWAYS_ALLOWED bytes.
# Weights hardly compress, but a malicious file could unpack to a thousand times its size.
MAX_EXPANSION, ALWAYS_ALLOWED = 20, 64_000_000
NPY_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that NumPy writes
CONVERT = (
    "import torch, safetensors.torch as s; t = torch.load('{0}', weights_only=True); "
    "s.save_file(t.get('model', t), '{1}')"
)


# Selects arrays: (placeholders with shapes and dtypes, configuration) -> names to read
Select = Callable[[dict[str, Array], str | None], Collection[str]]


class CheckpointError(FileError):
    """A file is not a complete, valid model. The message names the file and the array."""


def read_arrays(
    path: str | Path, select: Select | None = None
) -> tuple[dict[str, Array], str | None]:
    """Read the arrays of a file, and its configuration as JSON or None.

    `select` chooses the arrays to read by their names, shapes and dtypes, before they are unpacked.
    bfloat16, which NumPy does not have, becomes float32. Raises FileNotFoundError, MemoryError, or
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
        names = _select(path, arrays, config, select)
        return {name: _to_native(arrays[name]) for name in names}, config
    return _read_npz(path, select)


def _select(
    path: Path, arrays: dict[str, Array], config: str | None, select: Select | None
) -> Collection[str]:
    if not arrays:
        raise CheckpointError(f"{path} contains no arrays")
    return arrays if select is None else select(arrays, config)


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


def _to_native(array: Array) -> Array:
    """Convert to native byte order, and bfloat16, the upper half of a float32, to float32."""
    if array.dtype == "V2":
        array = (array.view("<u2").astype("<u4") << 16).view("<f4")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_npz(path: Path, select: Select | None) -> tuple[dict[str, Array], str | None]:
    """Check the names and headers, then unpack the selected arrays."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            hint = "" if path.suffix == ".npz" else f". Weights are .npz or {SAFETENSORS} files"
            raise CheckpointError(f"{path} is not a complete .npz file{hint}")
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as archive:
                headers = _read_headers(archive, path.stat().st_size)
                config = str(archive["config"]) if headers.pop("config", None) is not None else None
                names = _select(path, headers, config, select)
                return {name: _to_native(archive[name]) for name in names}, config
        except Exception as reason:  # zipfile, zlib and NumPy's parser raise many types
            if isinstance(reason, CheckpointError) or is_system_error(reason):
                raise
            raise CheckpointError(f"{path} is damaged: {reason}") from None


def _read_headers(archive: Any, file_size: int) -> dict[str, Array]:
    """Return a broadcast zero with the shape and dtype of each array of an .npz file.

    Raises ValueError if the headers contradict the sizes in the archive, or if unpacking would need
    too much memory.
    """
    duplicates = [name for name, n in Counter(archive.files).items() if n > 1]
    if duplicates:
        raise ValueError(f"it contains '{duplicates[0]}' twice")
    total = sum(entry.file_size for entry in archive.zip.infolist())
    if total > max(ALWAYS_ALLOWED, MAX_EXPANSION * file_size):
        raise ValueError(
            f"its {file_size:,} bytes would unpack to {total:,}, more than {MAX_EXPANSION} times "
            "as many"
        )
    headers = {}
    for name, entry in zip(archive.files, archive.zip.infolist(), strict=True):
        if entry.compress_type not in COMPRESSIONS:
            raise ValueError(f"'{name}' uses a compression method that NumPy does not write")
        with archive.zip.open(entry) as file:
            try:
                shape, _, dtype = NPY_HEADERS[npy.read_magic(file)](file)
                needed, size = math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()
                if dtype.hasobject:
                    raise ValueError("it contains pickled objects, which are never loaded")
                if size != needed:  # before memory is allocated
                    raise ValueError(
                        f"it has {size:,} bytes, but shape {shape} and dtype {dtype} need "
                        f"{needed:,}"
                    )
                headers[name] = np.broadcast_to(_to_native(np.zeros((), dtype)), shape)
            except (KeyError, ValueError) as reason:
                raise ValueError(f"'{name}' is not a valid array: {reason}") from None
    return headers


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
            if not all(isinstance(n, int) for n in header[name]["shape"]):
                return None
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
