"""Load and save a model in any layout."""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..data.resampling import RESAMPLING_METHODS
from ..files import write_atomically
from ..layers import add_positions_sincos2d
from ..models import SIZES, ViTConfig
from ..tree import Tree
from . import huggingface, own
from .convert import ModelFile, export
from .files import PICKLES, CheckpointError, read_arrays, write_arrays
from .layouts import ArrayError, Names
from .positions import resize_model

CHECKPOINT = "model.npz"  # in the output folder of a training run
MODEL, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
UNLEARNED = ("sincos2d", "none")  # positions without parameters; other programs need a table
HEADS = {width: heads for _, width, _, heads in SIZES.values()}


def load(
    path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    resize: str = "aligned",
    **fields: Any,
) -> tuple[ViTConfig, Tree]:
    """Load a model saved by minivit, the authors (big_vision), timm or Hugging Face.

    Parameters
    ----------
    path : str or Path
        A .npz or .safetensors file, or a folder with model.npz or with config.json and
        model.safetensors.
    image_size : int or (int, int), optional
        New image size. The position embeddings are resized to it (section 3.2). If the file does
        not contain its image size, but has as many positions as this size has patches, they are
        used as they are.
    resize : str
        Interpolation method for the positions, one of `minivit.data.resampling`.
    **fields
        Fields of ViTConfig that the file does not contain, such as `heads`, `gelu`, `norm_eps`.

    Returns
    -------
    config : ViTConfig
        Read from the file, or inferred from the names and shapes of its arrays.
    params : dict
        Tree of parameters, as views of the file if possible.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is not a complete, valid model. The message names the file and the array.
    TypeError, ValueError
        For an unknown field or method, or an image size that cannot be cut into patches.

    Examples
    --------
    >>> config, params = load(minivit.data.SCATTERED_MODEL)
    >>> config.classes, params["head"]["bias"].shape
    (10, (10,))
    """
    unknown = fields.keys() - {field.name for field in dataclasses.fields(ViTConfig)}
    if unknown:
        raise TypeError(f"unknown field {sorted(unknown)[0]!r}: ViTConfig has no such field")
    if resize not in RESAMPLING_METHODS:
        raise ValueError(f"unknown resize {resize!r}: choose {', '.join(RESAMPLING_METHODS)}")
    path = find_weights(Path(path))

    def select(headers: dict[str, Array], json_config: str | None) -> set[str]:
        file = ModelFile(path, headers)
        find_config(file, json_config, fields, image_size)  # raises CheckpointError
        return set(file.sources.values())

    arrays, json_config = read_arrays(path, select)
    config, params = make_model(ModelFile(path, arrays), json_config, fields, image_size)
    if image_size is None:
        return config, params
    return resize_model(config, params, image_size, resize)


def make_model(
    file: ModelFile, json_config: str | None, fields: dict[str, Any], image_size: Any = None
) -> tuple[ViTConfig, Tree]:
    """Create a model from a file. `json_config` is the configuration that minivit stored in it."""
    config, stored = find_config(file, json_config, fields, image_size)
    try:
        params = file.read(stored)
    except ValueError as reason:
        raise file.error(reason) from None
    if stored is not config:
        del params["positions"]
    return config, params


def find_config(
    file: ModelFile, json_config: str | None, fields: dict[str, Any], image_size: Any = None
) -> tuple[ViTConfig, ViTConfig]:
    """Return the configurations of the model and of its stored arrays; `positions` may differ.

    Raises CheckpointError if the names, shapes or dtypes of the arrays do not match.
    """
    try:
        if json_config is None:
            config = stored = _infer_config(file, fields, image_size)
        else:
            config = stored = own.from_json(json_config, fields, len(file.sources))
            if file.layout is not own and config.positions in UNLEARNED:
                stored = replace(config, positions="1d")  # a table for other programs
        file.check(stored)
    except CheckpointError:
        raise
    except ValueError as reason:
        raise file.error(reason) from None
    return config, stored


def _infer_config(file: ModelFile, fields: dict[str, Any], image_size: Any) -> ViTConfig:
    """Infer the configuration from the arrays, Hugging Face's JSON files and `fields`.

    Raises ValueError if they contradict each other or do not determine it.
    """
    inferred = file.layout.infer_config(file.shapes)
    json_fields = _read_json(file.path, fields) if file.layout is huggingface else {}
    for name, value in json_fields.items():
        if name in inferred and inferred[name] != value:
            raise ValueError(f"config.json: {name} is {value}, but {inferred[name]} in the arrays")
    values: dict[str, Any] = {"heads": HEADS.get(inferred["width"])} | file.layout.DEFAULTS
    values |= json_fields | inferred | fields  # later values have priority
    if values["heads"] is None:
        raise ValueError(f"the number of heads for width {values['width']} is unknown: pass heads=")
    valid_size = inferred["patch_size"] * 4 * 2 ** len(inferred["stem"] or ())  # divisible
    config = ViTConfig(**values | {"image_size": valid_size})
    file.entries(config)  # check the names, which do not depend on the size
    sizes = [size for size in (json_fields.get("image_size"), image_size) if size is not None]
    if config.positions != "1d":
        if not sizes:
            raise ValueError(f"positions '{config.positions}' have no table: pass image_size=")
        return replace(config, image_size=sizes[0])
    return _match_positions(file, config, sizes, json_fields)


def _match_positions(
    file: ModelFile, config: ViTConfig, sizes: list[Any], json_fields: dict[str, Any]
) -> ViTConfig:
    """Return the configuration with the first size, or square, that matches the positions."""
    names: Names = file.layout.NAMES
    T = names.shape("positions/table", 3, file.shapes)[1]
    N = T - (config.pooling == "class")
    square = math.isqrt(max(N, 1)) * config.stride
    candidates = sizes if "image_size" in json_fields else [*sizes, square]
    for candidate in (configs := [replace(config, image_size=size) for size in candidates]):
        if candidate.tokens == T:
            return candidate
    if config.pooling == "mean" and any(candidate.tokens == T - 1 for candidate in configs):
        names.shape("class_token", 3, file.shapes)  # raises: it is missing
    if "image_size" in json_fields:
        message = f"config.json: image_size is {sizes[0]}, but {{}} has {N} patches"
    else:
        hint = "the file's own " if sizes else ""
        message = f"{{}} has {N} patches, not a square: pass {hint}image_size=(height, width)"
    raise ArrayError(message, *names.array_names("positions/table"))


def _read_json(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Read the fields of ViTConfig from Hugging Face's JSON files next to the weights.

    preprocessor_config.json is not read if `fields` contains the preprocessing.
    """
    values: dict[str, Any] = {}
    readers = {CONFIG: huggingface.read_config, PROCESSOR: huggingface.read_processor}
    for name, read in readers.items():
        file = path.with_name(name)
        if file.is_file() and not (name == PROCESSOR and "preprocessing" in fields):
            try:
                values |= read(json.loads(file.read_text(encoding="utf-8")))
            except (AttributeError, TypeError, ValueError, OverflowError, RecursionError) as reason:
                raise CheckpointError(f"{file} is not valid: {reason}") from None
    return values


def find_weights(path: Path) -> Path:
    """Return the weight file in a folder, or a pickled file, which `read_arrays` rejects.

    If the path is not a folder, it is returned.
    """
    if not path.is_dir():
        return path
    folder = path
    for name in (MODEL, CHECKPOINT):
        if (folder / name).exists():
            return folder / name
    if pickled := [path for path in folder.iterdir() if path.suffix in PICKLES]:
        return pickled[0]
    if (folder / f"{MODEL}.index.json").exists():
        raise FileNotFoundError(f"the weights in {folder} are split: merge the files into {MODEL}")
    raise FileNotFoundError(f"there is no {MODEL} or {CHECKPOINT} in {folder}")


def save_as(
    path: str | Path, config: ViTConfig, params: Tree, layout: str = "minivit",
    class_names: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Write a model atomically in a layout.

    Parameters
    ----------
    path : str or Path
        A .npz or .safetensors file or, for "huggingface", a folder.
    config : ViTConfig
        Also written to the file, where other programs ignore it.
    params : dict
        Tree of parameters.
    layout : str
        "minivit", "google", "timm" or "huggingface".
    class_names : sequence of str, optional
        Written to Hugging Face's config.json; the other layouts do not store them.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        For an unknown layout, or one that has no name for an array of this model.

    Examples
    --------
    >>> model = minivit.ViT.create("ViT-Ti/4", image_size=32, classes=10)
    >>> save_as(folder / "model", model.config, model.params, "huggingface")
    >>> load(folder / "model")[0] == model.config
    True
    """
    path = Path(path)
    if layout == "minivit":
        return own.save(path, config, params)
    stored = config
    if config.positions in UNLEARNED:
        z = np.zeros((1, config.tokens, config.width), dtype=params["norm"]["scale"].dtype)
        if config.positions == "sincos2d":
            z, _ = add_positions_sincos2d(z, config.grid)
        params = params | {"positions": {"table": z[0]}}
        stored = replace(config, positions="1d")
    arrays = export(params, stored, layout)
    if layout == "huggingface" and path.suffix not in (".npz", ".safetensors"):
        path.mkdir(parents=True, exist_ok=True)
        _write_json(path / CONFIG, huggingface.make_config(config, class_names))
        if config.channels == 3:
            _write_json(path / PROCESSOR, huggingface.make_processor(config))
        path = path / MODEL
    return write_arrays(path, arrays, json.dumps(dataclasses.asdict(config)))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
