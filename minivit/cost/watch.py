"""Memory as it is taken: NumPy's by tracemalloc, a GPU's by the pool its arrays come from."""

import contextlib
import tracemalloc
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np


@contextlib.contextmanager
def bytes_alive(xp: ModuleType) -> Iterator[Callable[[], int]]:
    """A function that tells the bytes of the arrays made since, as far as they still exist."""
    if xp is not np:
        pool = xp.get_default_memory_pool()
        before = pool.used_bytes()
        yield lambda: pool.used_bytes() - before
        return
    tracemalloc.start()
    try:
        mine = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
        yield lambda: sum(t.size for t in tracemalloc.take_snapshot().filter_traces([mine]).traces)
    finally:
        tracemalloc.stop()


def peak(xp: ModuleType, function: Callable[[], object]) -> int:
    """The most bytes at once beside those in use before, while the function runs.

    On a GPU that is what its pool had to grow by: a little more, for its pieces do not always fit.
    """
    if xp is not np:
        pool = xp.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.used_bytes()
        function()
        return pool.total_bytes() - before
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
