"""The arrays that a pullback retains. They account for most of the memory of training."""

from collections.abc import Callable, Iterator
from typing import Any

from ..arrays import Array


class RetainedArrays(dict[str, Array]):
    """Arrays by name. Printing it lists their shapes and sizes, and the total."""

    @property
    def bytes(self) -> int:
        """Memory of all arrays in bytes. Memory that several arrays share counts once."""
        owners = {id(owner): owner.nbytes for owner in map(memory_owner, self.values())}
        return sum(owners.values())

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        lines = [
            f"{name:{width}}  {tuple(array.shape)!s:18} {array.nbytes:,} bytes"
            for name, array in self.items()
        ]
        return "\n".join([*lines, f"total {self.bytes:,} bytes"])


def list_retained(pullback: Callable[..., Any]) -> RetainedArrays:
    """List the arrays that a pullback keeps in memory.

    Parameters
    ----------
    pullback : callable
        A pullback, or any other function.

    Returns
    -------
    RetainedArrays
        {name: array}. A name is the path from the pullback to the array: `softmax_back/p` is the
        array p that the pullback `softmax_back` captured, and `params/kernel` is an array in a
        captured dict. Captured parameters and inputs are included. `.bytes` is the total size.

    Raises
    ------
    TypeError
        If `pullback` is not callable.

    Examples
    --------
    >>> p, pullback = minivit.layers.softmax(np.zeros((2, 5)))
    >>> print(list_retained(pullback))
    p  (2, 5)             80 bytes
    total 80 bytes
    """
    if not callable(pullback):
        raise TypeError(f"list_retained takes a pullback, not {type(pullback).__name__}")
    return RetainedArrays(_find_arrays(pullback, "", set()))


def _find_arrays(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Array]]:
    """Yield (name, array) for each array that can be reached from a value, each array once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if hasattr(value, "nbytes") and hasattr(value, "shape"):
        if value.shape:
            yield name, value
        return
    for part, inner in _named_parts(value).items():
        yield from _find_arrays(inner, f"{name}/{part}".lstrip("/"), seen)


def _named_parts(value: Any) -> dict[str, Any]:
    """Return the values that a function, dict, list or tuple refers to, by name."""
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)):
        return {str(i): item for i, item in enumerate(value)}
    cells = getattr(value, "__closure__", None) or ()
    names = value.__code__.co_freevars if cells else ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}


def memory_owner(array: Array) -> Array:
    """Return the array that owns the memory of a view."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array
