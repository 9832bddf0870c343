"""Other people's names, shapes and axes: one table for each, which serves reading and writing.

A table has a row for each leaf of minivit's tree: what others call it, and its shape there in the
paper's letters, so that `blocks/0/norm1/scale` is `LayerNorm_0/scale` of the authors' first block.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..models import ViTConfig

# PyTorch keeps a dense kernel as (out, in), and a convolution's as (out, in, rows, columns).
TURNS = {2: (1, 0), 4: (2, 3, 1, 0)}
FROM_0, FROM_1 = "(0|[1-9][0-9]{0,3})", "([1-9][0-9]{0,3})"  # a number has one way to be written


class Row(NamedTuple):
    """What others call one of our leaves, and its shape there.

    In a name # is a number counted from 0, + one counted from 1, and {query,key,value} are three
    arrays that lie side by side in ours. Of several names the first is the one to write.

    The letters of a shape are the paper's, and: C channels of the image, I of what is cut into
    patches, F of a hybrid's root, i before a unit of its stages and f inside; R the hidden layer
    of the head, Y what its last layer sees. A number before a letter multiplies it.
    """

    names: tuple[str, ...]
    shape: str


def as_it_is(arrays: dict[str, Array]) -> Iterator[tuple[str, Array, str]]:
    """All arrays by the names that they have."""
    for name, array in arrays.items():
        yield name, array, name


class Layout(NamedTuple):
    """Whose names they are, the rows by our names, and what goes without saying in such files.

    mark: an expression that some name of every such file begins with; its group 1 is a prefix of
    them all. turned: the axes are in PyTorch's order. settings: fields of ViTConfig that arrays
    do not tell. adapt: other names and shapes in use, brought to those of the rows, each with the
    name that it had. prefix: what the file of a model with a classifier has before all names but
    those of its head.
    """

    mark: str
    rows: dict[str, Row]
    turned: bool
    settings: dict[str, Any]
    adapt: Callable[[dict[str, Array]], Iterator[tuple[str, Array, str]]] = as_it_is
    prefix: str = ""


Table = dict[str, tuple[str | tuple[str, ...], str, str | None]]


def rows_of(modules: Table, kernel: str, scale: str) -> dict[str, Row]:
    """The rows of modules {ours: (theirs, shape of kernel or scale, shape of bias or None)}.

    What has a kernel of one dimension is a norm, and has a scale. `kernel` and `scale` are what
    others call these two, after the sign that separates them from the name.
    """
    rows = {}
    for ours, (theirs, shape, bias) in modules.items():
        names = (theirs,) if isinstance(theirs, str) else theirs
        leaf, called = ("kernel", kernel) if " " in shape else ("scale", scale)
        rows[f"{ours}/{leaf}"] = Row(tuple(name + called for name in names), shape)
        if bias is not None:
            rows[f"{ours}/bias"] = Row(tuple(f"{name}{called[0]}bias" for name in names), bias)
    return rows


def row_of(ours: str, layout: Layout) -> Row | None:
    """The row of one of our leaves, which for blocks/3/norm1/scale is blocks/#/norm1/scale."""
    return layout.rows.get("/".join("#" if part.isdecimal() else part for part in ours.split("/")))


def numbers_in(ours: str) -> list[int]:
    """stem/stages/0/2/conv1/kernel  ->  0, 2"""
    return [int(part) for part in ours.split("/") if part.isdecimal()]


def names_of(ours: str, layout: Layout, spelling: int = 0) -> list[str]:
    """What others call one of our leaves: one name, or three that lie side by side in it."""
    names = row_of(ours, layout).names
    name = names[min(spelling, len(names) - 1)]
    for number in numbers_in(ours):
        sign = re.search("[#+]", name)[0]
        name = name.replace(sign, str(number + (sign == "+")), 1)
    return alternatives(name)


def alternatives(name: str) -> list[str]:
    """a/{query,key,value}/b  ->  a/query/b, a/key/b, a/value/b"""
    head, brace, rest = name.partition("{")
    inside, _, tail = rest.partition("}")
    return [head + one + tail for one in inside.split(",")] if brace else [name]


class Expression(NamedTuple):
    """Finds the names of one of our leaves, or of a third of it, among those of others."""

    expression: re.Pattern[str]
    ours: str  # with # for each group
    starts: tuple[int, ...]  # 0 or 1, where each group counts from
    part: int
    spelling: int

    def ours_of(self, name: str) -> str | None:
        """Our name for one of theirs, or None if it is no such name."""
        match = self.expression.fullmatch(name)
        ours = self.ours
        for number, start in zip(match.groups() if match else (), self.starts, strict=False):
            ours = ours.replace("#", str(int(number) - start), 1)
        return ours if match else None


def expressions(layout: Layout) -> Iterator[Expression]:
    """All names of a layout, in all their spellings."""
    for ours, row in layout.rows.items():
        for spelling, name in enumerate(row.names):
            starts = tuple(int(sign == "+") for sign in re.findall("[#+]", name))
            for part, one in enumerate(alternatives(name)):
                text = re.escape(one).replace(r"\#", FROM_0).replace(r"\+", FROM_1)
                yield Expression(re.compile(text), ours, starts, part, spelling)


def turned(array: Array, layout: Layout) -> Array:
    """Their array with its axes in our order: a view."""
    axes = TURNS.get(array.ndim) if layout.turned else None
    return array if axes is None else array.transpose(axes)


def turned_back(array: Array, shape: tuple[int, ...], layout: Layout) -> Array:
    """Our array in their shape and with its axes in their order."""
    axes = TURNS.get(len(shape)) if layout.turned else None
    if axes is None:
        return array.reshape(shape)
    return array.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))


def shape_of(ours: str, layout: Layout, config: ViTConfig) -> tuple[int, ...]:
    """The shape that others give to (each third of) one of our leaves."""
    letters = letters_of(config, numbers_in(ours))
    return tuple(
        int(number or 1) * (letters[letter] if letter else 1)
        for number, letter in map(split_number, row_of(ours, layout).shape.split())
    )


def split_number(term: str) -> tuple[str, str]:
    """3D  ->  3, D"""
    letter = term.lstrip("0123456789")
    return term[: len(term) - len(letter)], letter


def letters_of(config: ViTConfig, place: list[int]) -> dict[str, int]:
    """The letters of all shapes; `unpack_into_cache` is the stage and the unit, where there is one."""
    c = config
    known = {
        "C": c.channels, "D": c.width, "Dh": c.width // c.heads, "F": c.stem_width,
        "I": c.feature_channels, "K": c.classes, "M": c.mlp_width, "P": c.patch_size,
        "R": c.hidden_head, "T": c.tokens, "Y": c.hidden_head or c.width, "k": c.heads,
    }  # fmt: skip
    if len(place) == 2:
        stage, unit = place
        f = c.stem_width * 2**stage
        known |= {"f": f, "i": 4 * f if unit else 2 * f if stage else f}
    return known
