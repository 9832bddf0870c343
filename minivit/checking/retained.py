"""The arrays that a pullback retains, which account for most of the memory of training."""

from collections.abc import Callable, Iterator
from typing import Any

from ..arrays import Array


class RetainedArrays(dict[str, Array]):
    """Arrays by name. Printing it lists their shapes and sizes, and the total."""

    @property
    def bytes(self) -> int:
        """Memory of all arrays in bytes. Memory that several arrays share counts once."""
        sizes = {id(owner): owner.nbytes for owner in map(memory_owner, self.values())}
        return sum(sizes.values())

    def __str__(self) -> str:
        width, items = max(map(len, self), default=0), self.items()
        lines = [f"{name:{width}}  {a.shape!s:18} {a.nbytes:,} bytes" for name, a in items]
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
    """Yield (name, array) once for each array that a value refers to, directly or indirectly."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if hasattr(value, "nbytes") and hasattr(value, "shape"):
        if value.shape:
            yield name, value
        return
    if isinstance(value, dict):
        children = value
    elif isinstance(value, (list, tuple)):
        children = dict(enumerate(value))
    else:  # the captured variables of a function
        cells = getattr(value, "__closure__", None) or ()
        names = value.__code__.co_freevars if cells else ()
        children = {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}
    for key, child in children.items():
        yield from _find_arrays(child, f"{name}/{key}".lstrip("/"), seen)


def memory_owner(array: Array) -> Array:
    """Return the array that owns the memory of a view."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array
