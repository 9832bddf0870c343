"""Names, shapes and axis orders of a model's arrays in third-party checkpoints.

A layout is a module with `find_spelling(names)`, `infer_config(shapes)`, `names(config)` and
DEFAULTS, the fields of ViTConfig that its files do not contain. The shared parts are here.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..models import ViTConfig, parameter_specs
from ..models.config import MAX_STAGES
from ..tree import flatten

Shapes = Mapping[str, tuple[int, ...]]

# PyTorch stores a dense kernel as (out, in), a convolution kernel as (out, in, rows, columns).
TORCH_AXES = {2: (1, 0), 4: (3, 2, 0, 1)}
TORCH_KINDS = {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}
UNIT = ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3", "conv_shortcut", "norm_shortcut")


class ArrayError(ValueError):
    """A missing or invalid array. Arguments: a message with a {} per array name, and the names."""


class Spelling(NamedTuple):
    """How the array names in a file differ from those of its layout.

    prefix: precedes all names except those of a classifier. parts: {part of a name: its spelling
    in the file}; ^ marks the start of a name. ignored: arrays that are not part of the model.
    """

    prefix: str = ""
    parts: Mapping[str, str] = {}
    ignored: tuple[str, ...] = ()

    def spell(self, name: str) -> str:
        """Return the file's spelling of a name of the layout."""
        prefix = "" if name.startswith("classifier.") else self.prefix
        return prefix + _replace(name, self.parts.items())

    def normalise(self, name: str) -> str:
        """Return the layout's spelling of a name in the file."""
        inverse = ((spelled, part) for part, spelled in self.parts.items())
        return _replace(name.removeprefix(self.prefix), inverse)


def _replace(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    name = "^" + name
    for old, new in pairs:
        name = name.replace(old, new)
    return name.removeprefix("^")


def parts_in_use(names: Iterable[str], parts: Mapping[str, str]) -> Mapping[str, str]:
    """Return `parts` if any name uses one of these alternative spellings, otherwise {}."""
    return parts if any(part in f"^{name}" for name in names for part in parts.values()) else {}


class Entry(NamedTuple):
    """The array, or query, key and value arrays, of a file that store one leaf of the tree.

    shape: shape of each array in the file. axes: the transpose from minivit's axis order, with the
    leaf's axes split as in the file, to the file's axis order.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def to_file(self, leaf: Array) -> dict[str, Array]:
        """Convert a leaf to the arrays of the file."""
        split = [self.shape[axis] for axis in np.argsort(self.axes)]
        thirds = np.split(leaf, len(self.names), axis=-1)
        parts = [np.ascontiguousarray(p.reshape(split).transpose(self.axes)) for p in thirds]
        return dict(zip(self.names, parts, strict=True))

    def to_leaf(self, arrays: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
        """Convert arrays of the file to a leaf, as a view if possible."""
        transposed = [arrays[name].transpose(np.argsort(self.axes)) for name in self.names]
        parts = [array.reshape(*shape[:-1], -1) for array in transposed]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


class Names(NamedTuple):
    """The names of a layout.

    layers maps a layer or leaf of minivit to its name in the layout; {} stands for an index and *
    for query, key or value if these are separate. kinds maps a kind of leaf to a name suffix. axes
    maps ndim to a transpose. first is the index of the first stage and unit of a stem.
    """

    layers: Mapping[str, str]
    kinds: Mapping[str, str] = TORCH_KINDS
    axes: Mapping[int, tuple[int, ...]] = TORCH_AXES
    first: int = 0

    def array_names(self, leaf: str) -> tuple[str, ...]:
        """Return the names of a leaf's array or arrays. Raise ValueError if the layout has none."""
        path = leaf.split("/")
        first = self.first if path[0] == "stem" else 0
        indices = [int(part) + first for part in path if part.isdecimal()]
        leaf = "/".join("{}" if part.isdecimal() else part for part in path)
        layer, _, kind = leaf.rpartition("/")
        if leaf not in self.layers and layer not in self.layers:
            raise ValueError(f"the layout has no name for '{'/'.join(path)}'")
        name = (self.layers.get(leaf) or self.layers[layer] + self.kinds[kind]).format(*indices)
        parts = ("query", "key", "value") if "*" in name else ("",)
        return tuple(name.replace("*", part) for part in parts)

    def entries(self, config: ViTConfig, split: Shapes | None = None) -> dict[str, Entry]:
        """Return the entry of each leaf.

        split: {leaf of a block: its shape with the axes split as in the file}
        """
        P, D = config.patch_size, config.width
        split = {
            "class_token": (1, 1, D),
            "positions/table": (1, config.tokens, D),
            "patch_embedding/kernel": (P, P, config.feature_channels, D),
            **(split or {}),
        }
        entries = {}
        for leaf, spec in flatten(parameter_specs(config)).items():
            names = self.array_names(leaf)
            third = (*spec.shape[:-1], spec.shape[-1] // len(names))
            shape = split.get(leaf) or split.get(leaf.split("/", 2)[-1], third)
            axes = self.axes.get(len(shape), tuple(range(len(shape))))
            entries[leaf] = Entry(names, tuple(shape[axis] for axis in axes), axes)
        return entries

    def shape(self, leaf: str, dimensions: int, shapes: Shapes) -> tuple[int, ...]:
        """Return the shape of a leaf, or of its query array, in minivit's axis order."""
        name = self.array_names(leaf)[0]
        if name not in shapes:
            raise ArrayError("the array {} is missing", name)
        if len(shapes[name]) != dimensions:
            raise ArrayError(f"{{}} has shape {shapes[name]}, expected {dimensions} axes", name)
        axes = np.argsort(self.axes.get(dimensions, range(dimensions)))
        return tuple(shapes[name][axis] for axis in axes)

    def infer_config(self, shapes: Shapes) -> dict[str, Any]:
        """Return the fields of ViTConfig that the array shapes determine.

        Raises ArrayError if an array is missing, or if the shapes of two arrays are inconsistent.
        """

        def has(*leaves: str) -> bool:
            return any(name in shapes for leaf in leaves for name in self.array_names(leaf))

        def outputs(leaf: str, dimensions: int, other: str) -> int:
            n, m = self.shape(leaf, dimensions, shapes)[-1], self.shape(other, 1, shapes)[0]
            if n != m:
                names = self.array_names(leaf)[0], self.array_names(other)[0]
                raise ArrayError(f"{{}} has {n} outputs, but {{}} has {m}", *names)
            return n

        def count(template: str, first: int) -> int:
            """Count the distinct indices >= `first` that occur at the first {} of a template."""
            prefix = template.partition("{}")[0]
            suffixes = (name.removeprefix(prefix) for name in shapes if name.startswith(prefix))
            indices = {suffix.replace("/", ".").partition(".")[0] for suffix in suffixes}
            return sum(str(i) in indices for i in range(first, first + len(shapes)))

        unit, first = self.layers["stem/stages/{}/{}/conv1"], self.first
        stages = range(first, first + min(count(unit, first), MAX_STAGES + 1))
        stem = tuple(count(unit.replace("{}", str(stage), 1), first) for stage in stages)
        depth = count(self.layers["blocks/{}/norm1"], 0)
        patch = image = self.shape("patch_embedding/kernel", 4, shapes)
        fields: dict[str, Any] = {"stem": None}
        if stem or has("stem/conv/kernel", "stem/norm/scale"):
            image = self.shape("stem/conv/kernel", 4, shapes)
            width = outputs("stem/conv/kernel", 4, "stem/norm/scale")
            fields = {"stem": stem, "stem_width": width}
        for field, layer in {"classes": "head", "hidden_head": "hidden"}.items():
            kernel, bias = f"{layer}/kernel", f"{layer}/bias"
            fields[field] = outputs(kernel, 2, bias) if has(kernel, bias) else None
        return fields | {
            "patch_size": patch[0],
            "channels": image[2],
            "width": outputs("norm/scale", 1, "norm/bias"),
            "depth": depth,
            "mlp_width": outputs("blocks/0/mlp/hidden/kernel", 2, "blocks/0/mlp/hidden/bias"),
            "pooling": "class" if has("class_token") else "mean",
            "qkv_bias": has(*(f"blocks/{i}/attention/qkv/bias" for i in range(depth))),
        }


def torch_units(prefix: str) -> dict[str, str]:
    """Return PyTorch's names of the layers in the units of a stem."""
    shortcut = {"conv_shortcut": "downsample.conv", "norm_shortcut": "downsample.norm"}
    return {f"stem/stages/{{}}/{{}}/{name}": prefix + shortcut.get(name, name) for name in UNIT}
