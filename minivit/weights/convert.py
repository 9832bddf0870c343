"""Conversion between the arrays of a file, in any layout, and minivit's tree of parameters."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array, to_host
from ..models import ViTConfig, parameter_specs
from ..tree import Tree, flatten, unflatten
from . import google, huggingface, own, timm
from .files import CheckpointError
from .layouts import ArrayError, Entry, Shapes, Spelling

MODULES: Any = {"minivit": own, "google": google, "timm": timm, "huggingface": huggingface}
LAYOUTS = tuple(MODULES)
HINTS = {  # for models that lack an array
    "positions/table": " (pass positions='sincos2d' or 'none' if the positions are not learned)",
    "patch_embedding/bias": " (pass patch_bias=False if the patch embedding has none)",
}


def export(tree: Tree, config: ViTConfig, layout: str) -> dict[str, Array]:
    """Convert parameters or gradients to the names, shapes and axes of a layout.

    Parameters
    ----------
    tree : tree of arrays
        Parameters or gradients of a model, or a subtree of them.
    config : ViTConfig
        Configuration of the model.
    layout : str
        "minivit", "google", "timm" or "huggingface".

    Returns
    -------
    dict
        {name: NumPy array}, ready for `np.savez` or `safetensors.numpy.save_file`.

    Raises
    ------
    ValueError
        For an unknown layout, or one that has no name for an array of this model.

    Examples
    --------
    >>> model = minivit.ViT.create("ViT-Ti/4", image_size=32, classes=10)
    >>> export(model.params, model.config, "timm")["blocks.0.attn.qkv.weight"].shape
    (576, 192)
    """
    if layout not in MODULES:
        raise ValueError(f"unknown layout {layout!r}: choose {', '.join(LAYOUTS)}")
    spelling = Spelling()
    if layout == "timm" and config.stem == ():
        spelling = Spelling(parts=timm.ROOT_ALONE)
    elif layout == "huggingface" and config.classes is not None:
        spelling = Spelling("vit.")
    entries = MODULES[layout].names(config)
    return {
        spelling.spell(name): part
        for leaf, array in flatten(tree).items()
        for name, part in entries[leaf].to_file(to_host(array)).items()
    }


class ModelFile:
    """The arrays of a file that are part of the model, by their names in the layout.

    Raises CheckpointError if the names match no layout, or if two names denote the same array.
    """

    def __init__(self, path: Path, arrays: dict[str, Array]) -> None:
        spellings = {module: module.find_spelling(arrays) for module in MODULES.values()}
        self.layout: Any = next((module for module in MODULES.values() if spellings[module]), own)
        self.path, self.spelling = path, spellings[self.layout]
        if self.spelling is None:
            names = ", ".join(sorted(arrays)[:3])
            raise CheckpointError(f"{path} is not a Vision Transformer: it contains {names}, ...")
        prefix, _, ignored = self.spelling
        names = {
            source: self.spelling.normalise(source)
            for source in arrays
            if source.startswith(prefix) or not f"{source}/".startswith(ignored)
        }
        self.arrays: dict[str, Array] = {}
        self.sources: dict[str, str] = {}  # name in the layout: name in the file
        class_token = "cls" in names.values()
        for source, name in names.items():
            parts = [(name, arrays[source])]
            if self.layout is google:
                parts = google.unpack(name, arrays[source], class_token)
            for name, part in parts:
                if name in self.arrays:
                    other = self.sources[name]
                    raise CheckpointError(f"{path}: '{source}' and '{other}' are the same array")
                self.arrays[name], self.sources[name] = part, source
        self.shapes: Shapes = {name: array.shape for name, array in self.arrays.items()}

    def error(self, reason: ValueError) -> CheckpointError:
        """Return an error with the path and with the array names that the file uses."""
        message, *names = reason.args
        if isinstance(reason, ArrayError):
            spelled = [self.sources.get(name, self.spelling.spell(name)) for name in names]
            message = message.format(*(f"'{name}'" for name in spelled))
        return CheckpointError(f"{self.path}: {message}")

    def entries(self, config: ViTConfig) -> dict[str, Entry]:
        """Return the entry of each leaf. Raise ArrayError if an array is missing or unknown."""
        entries = self.layout.names(config)
        expected = {name: leaf for leaf, entry in entries.items() for name in entry.names}
        for name in [name for name in expected if name not in self.arrays]:
            raise ArrayError("the array {} is missing" + HINTS.get(expected[name], ""), name)
        for name in [name for name in self.arrays if name not in expected]:
            raise ArrayError("the array {} is unknown", name)
        return entries

    def check(self, config: ViTConfig) -> None:
        """Raise ArrayError if an array is missing or unknown, or has another shape or dtype."""
        dtypes = Counter(array.dtype for array in self.arrays.values())
        # The arrays of minivit's own files share one dtype. In other files, dtypes may vary.
        may_vary, usual = self.layout is not own, dtypes.most_common(1)[0][0]
        for name, shape in ((n, e.shape) for e in self.entries(config).values() for n in e.names):
            array = self.arrays[name]
            if array.shape != shape:
                raise ArrayError(f"{{}} has shape {array.shape}, expected {shape}", name)
            if array.dtype.kind != "f" or not (may_vary or array.dtype == usual):
                raise ArrayError(f"{{}} has dtype {array.dtype}, expected floats of one type", name)

    def read(self, config: ViTConfig) -> Tree:
        """Return the tree of parameters. Raise ArrayError if an array is missing or not valid."""
        self.check(config)
        entries, dtypes = self.entries(config), {array.dtype for array in self.arrays.values()}
        for name in [name for name, array in self.arrays.items() if not np.isfinite(array).all()]:
            raise ArrayError("{} contains NaN or infinity", name)
        # If the dtypes vary, use the widest. Other files are read as float32 or wider.
        dtype = np.result_type(*dtypes, *[np.float32] * (self.layout is not own))
        leaves = {
            leaf: entries[leaf].to_leaf(self.arrays, spec.shape).astype(dtype, copy=False)
            for leaf, spec in flatten(parameter_specs(config)).items()
        }
        return unflatten(leaves)
