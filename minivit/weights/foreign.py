"""A file in other people's names: every array found by ours, and looked at before it counts."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from ..arrays import Array
from ..models import ViTConfig, parameter_specs
from ..tree import Tree, flatten, unflatten
from .exchange import FOREIGN
from .files import CheckpointError
from .layouts import expressions, names_of, row_of, shape_of, split_number, turned

HINTS = {  # for what some models do without
    "positions/table": " (if its positions are waves, say positions='sincos2d')",
    "patch_embedding/bias": " (if its patches have none, say patch_bias=False)",
}


class ForeignFile:
    """The arrays of a file in one of the FOREIGN layouts.

    `arrays` are under their names, without the file's `prefix`; `places` {(ours, part): theirs}
    tells where each of our leaves is, or each third of it. Raises CheckpointError for an array
    that the layout does not know.
    """

    def __init__(self, path: Path, arrays: dict[str, Array], layout: str) -> None:
        self.path, self.layout = path, FOREIGN[layout]
        first = next(filter(None, (re.match(self.layout.mark, name) for name in arrays)))
        self.prefix = first[1] or ""
        self.arrays: dict[str, Array] = {}
        self.sources: dict[str, str] = {}  # what each is called in the file
        self.places: dict[tuple[str, int], str] = {}
        self.gather(arrays)
        spellings = Counter({0: 0})
        known = list(expressions(self.layout))
        for name in self.arrays:
            found = next((x for x in known if x.expression.fullmatch(name)), None)
            if found is None:
                raise self.error(f"the array '{self.called(name)}' is unknown")
            place = found.ours_of(name), found.part
            if place in self.places:
                twin = self.called(self.places[place])
                raise self.error(f"'{self.called(name)}' and '{twin}' are the same array")
            self.places[place] = name
            spellings[found.spelling] += len(self.layout.rows[found.ours].names) > 1
        self.spelling = max(spellings, key=spellings.get)

    def gather(self, arrays: dict[str, Array]) -> None:
        """Find the arrays' names in the layout. Raises CheckpointError if two would have one."""
        whole: dict[str, str] = {}
        for name in arrays:
            twin = whole.setdefault(name.removeprefix(self.prefix), name)
            if twin != name:
                raise self.error(f"'{name}' and '{twin}' are the same array")
        short = {name: arrays[source] for name, source in whole.items()}
        for name, array, source in self.layout.adapt(short):
            if name in self.arrays:
                twin = self.sources[name]
                raise self.error(f"'{whole[source]}' and '{twin}' are the same array")
            self.arrays[name], self.sources[name] = array, whole[source]

    def error(self, text: str) -> CheckpointError:
        """An error that names the file."""
        return CheckpointError(f"{self.path}: {text}")

    def missing(self, ours: str, part: int = 0) -> CheckpointError:
        """The error for one of our leaves, by the name that this file would give it."""
        name = names_of(ours, self.layout, self.spelling)[part]
        hint = HINTS.get(ours, "")
        return self.error(f"the array '{self.called(name)}' is missing{hint}")

    def shapeless(self, ours: str) -> CheckpointError:
        """The error for one of our leaves whose shape does not tell what it has to."""
        name, letters = self.places[ours, 0], row_of(ours, self.layout).shape.split()
        shape = self.arrays[name].shape
        return self.error(f"'{self.called(name)}' is {shape}, expected ({', '.join(letters)})")

    def called(self, name: str) -> str:
        """An array's name as it stands in the file, or would if it were there."""
        prefix = "" if name.startswith("classifier") else self.prefix
        return self.sources.get(name, prefix + name)

    def has(self, ours: str) -> bool:
        """Whether one of our leaves, or some part of it, is there."""
        return any((ours, part) in self.places for part in range(3))

    def count(self, place: str) -> int:
        """How many numbers follow `unpack_into_cache` in our names: the largest of them, and one."""
        found = (re.match(rf"{place}/(\d+)/", ours) for ours, _ in self.places)
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    def votes(self) -> dict[str, Counter[int]]:
        """How many arrays say what of each letter."""
        votes: dict[str, Counter[int]] = defaultdict(Counter)
        for (ours, _), name in self.places.items():
            terms = row_of(ours, self.layout).shape.split()
            sizes = without_leading_ones(self.arrays[name].shape, len(terms))
            if len(sizes) == len(terms):
                for term, size in zip(terms, sizes, strict=True):
                    number, letter = split_number(term)
                    if not number:
                        votes[letter][size] += 1
        return votes

    def tree(self, config: ViTConfig) -> Tree:
        """The tree of parameters. What needs no other numbers or order is a view of the file's.

        Raises CheckpointError for an array that is missing, superfluous, of a wrong shape, not of
        floats, or with entries that are NaN or infinite.
        """
        expected = {name: p.shape for name, p in flatten(parameter_specs(config)).items()}
        for ours in expected:
            if row_of(ours, self.layout) is None:
                raise self.error(f"such files have no array for '{ours}'")
            for part in range(len(names_of(ours, self.layout))):
                if (ours, part) not in self.places:
                    raise self.missing(ours, part)
        for (ours, _), name in self.places.items():
            if ours not in expected:
                raise self.error(f"the array '{self.called(name)}' has no place in this model")
            self.check(name, shape_of(ours, self.layout, config))
        kinds = {array.dtype for array in self.arrays.values()}
        dtype = np.result_type(np.float32, *kinds)  # halves become singles
        return unflatten(
            {
                ours: self.leaf(ours, shape).astype(dtype, copy=False)
                for ours, shape in expected.items()
            }
        )

    def leaf(self, ours: str, shape: tuple[int, ...]) -> Array:
        """One of our leaves, made of one array of theirs or of three side by side."""
        parts = len(names_of(ours, self.layout))
        shape = (*shape[:-1], shape[-1] // parts)
        leaves = [
            turned(self.arrays[self.places[ours, part]], self.layout).reshape(shape)
            for part in range(parts)
        ]
        return leaves[0] if parts == 1 else np.concatenate(leaves, axis=-1)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise CheckpointError if an array is not of this shape, or not of finite floats."""
        array, called = self.arrays[name], self.called(name)
        if without_leading_ones(array.shape, len(shape)) != shape:
            raise self.error(f"'{called}' is {array.shape}, expected {shape}{self.doubt(name)}")
        if array.dtype.kind != "f":
            raise self.error(f"'{called}' holds {array.dtype}, expected floats")
        if not np.isfinite(array).all():
            raise self.error(f"'{called}' has entries that are NaN or infinite")

    def doubt(self, name: str) -> str:
        """Where the shape of one array stands against that of one other: what that one is."""
        ours = next(place[0] for place, theirs in self.places.items() if theirs == name)
        swap = ("kernel", "bias") if "kernel" in ours else ("bias", "kernel")
        twin = ours.replace(*swap)
        if ours.split("/")[0] not in ("head", "hidden") or (twin, 0) not in self.places:
            return ""
        other = self.places[twin, 0]
        return f" beside '{self.called(other)}' of {self.arrays[other].shape}"


def without_leading_ones(shape: tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    """(1, 1, 1, C)  ->  (C,) where one dimension is expected: older files keep some vectors so."""
    return shape[-1:] if dimensions == 1 and set(shape[:-1]) == {1} else shape
