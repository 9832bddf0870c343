"""Opening a model, whoever saved it, and saving one for whoever is to open it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array, array_module
from ..data.resampling import RESAMPLING_METHODS, resampling_matrix
from ..layers import add_positions_sincos2d
from ..models import ViTConfig
from ..tree import Tree
from . import huggingface
from .exchange import export, recognise
from .files import PICKLES, CheckpointError, read_arrays, write_arrays, write_atomically
from .foreign import ForeignFile
from .own import config_from, is_own, own_model, save, to_json
from .positions import resize_positions
from .sizes import config_of

MODEL, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
UNLEARNED = ("sincos2d", "none")  # positions that are no parameter here, and a table elsewhere


def load(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    resize: str = "aligned",
    **fields: Any,
) -> tuple[ViTConfig, Tree]:
    """The configuration and the parameters of a model, whatever the layout of its file.

    path: a .npz or .safetensors file in minivit's names, the authors', timm's or Hugging Face's,
    or a folder with config.json and model.safetensors. Fields of ViTConfig are for what the file
    does not tell or tells wrongly: heads, gelu, norm_eps and so on. For an image_size other than
    the file's the positions are resized (section 3.2), by a method of `minivit.resampling`.

    Raises FileNotFoundError, CheckpointError for a file that is not whole and right (it names the
    array), TypeError for an unknown field, ValueError for a size or a method that cannot be.
    """
    unknown = fields.keys() - {field.name for field in dataclasses.fields(ViTConfig)}
    if unknown:
        raise TypeError(f"unknown field {sorted(unknown)[0]!r}: those of ViTConfig can be given")
    if resize not in RESAMPLING_METHODS:
        raise ValueError(f"unknown resize {resize!r}: choose {', '.join(RESAMPLING_METHODS)}")
    path = Path(path)
    if path.is_dir():
        path = path_in(path)
    arrays, text = read_arrays(path)
    if is_own(arrays):
        config, params = own_model(path, arrays, text, fields)
    else:
        config, params = foreign_model(path, arrays, text, fields, image_size)
    return resized(config, params, image_size, resize)


def foreign_model(
    path: Path,
    arrays: dict[str, Array],
    text: str | None,
    fields: dict[str, Any],
    image_size: int | tuple[int, int] | None,
) -> tuple[ViTConfig, Tree]:
    """The model of a file in other people's names; `text` is what minivit has left in it."""
    layout = recognise(arrays)
    if layout is None:
        some = ", ".join(sorted(arrays)[:3])
        raise CheckpointError(f"{path} has no names of a Vision Transformer: {some}, ...")
    file = ForeignFile(path, arrays, layout)
    if text is not None:
        config = config_from(path, text, fields, len(arrays))
        if config.positions in UNLEARNED:
            file.places.pop(("positions/table", 0), None)  # for others: here it is made anew
    else:
        said = said_beside(path, fields) if layout == "huggingface" else {}
        config = config_of(file, said, fields, image_size)
    return config, file.tree(config)


def said_beside(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of ViTConfig that Hugging Face keeps in two files beside the weights.

    The second is not asked for what the caller has said, among `fields`.
    """
    said = {}
    parts = {CONFIG: huggingface.settings}
    if "preprocessing" not in fields:
        parts[PROCESSOR] = huggingface.preprocessing
    for name, fields_of in parts.items():
        beside = path.with_name(name)
        if beside.is_file():
            try:
                said |= fields_of(json.loads(beside.read_text(encoding="utf-8")))
            except (AttributeError, TypeError, ValueError, RecursionError) as reason:
                raise CheckpointError(f"{beside} cannot be used: {reason}") from None
    return said


def path_in(folder: Path) -> Path:
    """The file of weights in a folder, or a pickle in its place, to be refused with what to do.

    Raises FileNotFoundError if there is neither.
    """
    if (folder / MODEL).exists():
        return folder / MODEL
    for path in folder.iterdir():
        if path.suffix in PICKLES:
            return path
    if (folder / f"{MODEL}.index.json").exists():
        raise FileNotFoundError(f"{folder} has its weights in several files: join them to {MODEL}")
    raise FileNotFoundError(f"there is no {MODEL} in {folder}")


def resized(
    config: ViTConfig, params: Tree, image_size: int | tuple[int, int] | None, method: str
) -> tuple[ViTConfig, Tree]:
    """The same model for images of another size: only its positions change. (Section 3.2)

    Raises ValueError for relative positions, whose table has no places, and for a size that
    cannot be cut into patches.
    """
    if image_size is None:
        return config, params
    larger = dataclasses.replace(config, image_size=image_size)
    old, new = config.grid, larger.grid
    if old != new and config.positions == "1d":
        table = resize_positions(params["positions"]["table"], old, new, method)
        params = params | {"positions": {"table": table}}
    elif old != new and config.positions == "2d":
        tables = params["positions"]
        both = {"rows": (old[0], new[0]), "columns": (old[1], new[1])}
        lines = {name: line(tables[name], *sides, method) for name, sides in both.items()}
        params = params | {"positions": tables | lines}
    elif old != new and config.positions == "relative":
        raise ValueError("relative positions cannot be resized: their table has no places")
    return larger, params


def line(table: Array, old: int, new: int, method: str) -> Array:
    """A table for the places of one axis, (old, D)  ->  (new, D)"""
    matrix = array_module(table).asarray(resampling_matrix(old, new, method), dtype=table.dtype)
    return matrix @ table


def unlearned(config: ViTConfig, params: Tree) -> Array:
    """The table (T, D) of positions that are no parameter: waves, or nothing."""
    z = np.zeros((1, config.tokens, config.width), dtype=params["norm"]["scale"].dtype)
    return add_positions_sincos2d(z, config.grid)[0][0] if config.positions == "sincos2d" else z[0]


def save_as(path: str | Path, config: ViTConfig, params: Tree, layout: str = "minivit") -> None:
    """Write a model in a layout: a .npz or .safetensors file or, for "huggingface", a folder.

    The configuration goes with it, where others overlook it. Raises ValueError for an unknown
    layout or one that has no names for this model, OSError if it cannot be written.
    """
    path = Path(path)
    if layout == "minivit":
        return save(path, config, params)
    arrays = export(params, config, layout)
    if config.positions in UNLEARNED:
        arrays |= export({"positions": {"table": unlearned(config, params)}}, config, layout)
    if layout == "huggingface" and path.suffix not in (".npz", ".safetensors"):
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / CONFIG, huggingface.config_json(config))
        if config.channels == 3:
            write_json(path / PROCESSOR, huggingface.processor_json(config))
        path = path / MODEL
    return write_arrays(path, arrays, to_json(config))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
