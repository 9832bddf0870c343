"""What a pullback keeps: the arrays in its closure, which are where training's memory goes."""

from collections.abc import Callable, Iterator
from typing import Any

from ..arrays import Array


class RetainedArrays(dict):
    """{name: array}. Printed: a line for each array, and the bytes of all, views counted once."""

    @property
    def bytes(self) -> int:
        """The memory that lies behind the arrays; what two of them share counts once."""
        owners = {id(owner): owner.nbytes for owner in map(memory_owner, self.values())}
        return sum(owners.values())

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        lines = [
            f"{name:{width}}  {tuple(array.shape)!s:18} {array.nbytes:,} bytes"
            for name, array in self.items()
        ]
        return "\n".join([*lines, f"together {self.bytes:,} bytes"])


def list_retained(pullback: Callable[..., Any]) -> RetainedArrays:
    """The arrays that a pullback holds on to, by name.

    A pullback inside another is written with a slash: `softmax_back/p` is the p that the softmax's
    pullback keeps, and `params/kernel` an array in a dict. Parameters and inputs count too: they
    are kept, though not for the pullback alone. Raises TypeError for what is no function.
    """
    if not callable(pullback):
        raise TypeError(f"keeps takes a pullback, a function, not a {type(pullback).__name__}")
    return RetainedArrays(find_arrays(pullback, "", set()))


def find_arrays(thing: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Array]]:
    """(name, array) for every array that can be reached from here, each named once."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if hasattr(thing, "nbytes") and hasattr(thing, "shape"):
        if thing.shape:
            yield name, thing
        return
    for inner, value in named_parts(thing).items():
        yield from find_arrays(value, f"{name}/{inner}".lstrip("/"), seen)


def named_parts(thing: Any) -> dict[str, Any]:
    """What a function, a dict, a list or a tuple holds, by name."""
    if isinstance(thing, dict):
        return thing
    if isinstance(thing, (list, tuple)):
        return {str(i): value for i, value in enumerate(thing)}
    cells = getattr(thing, "__closure__", None) or ()
    names = thing.__code__.co_freevars if cells else ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}


def memory_owner(array: Array) -> Array:
    """The array whose memory a view shows."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array
