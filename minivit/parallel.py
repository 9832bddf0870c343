"""Cutting a batch into shards and mapping them over threads, one BLAS thread in each.

NumPy releases Python's lock inside its loops and products, so two shards really run at once, and
each is small enough to stay in the cache: that beats two BLAS threads inside every product.
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import islice, pairwise
from typing import Any

from threadpoolctl import ThreadpoolController


def cpu_count() -> int:
    """The number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_shard_count(batch: int, at_most: int, threads: int | None = None) -> int:
    """How many shards of `at_most` images or fewer: as few as can be, a multiple of the threads."""
    threads = threads or cpu_count()
    rounds = -(-batch // (at_most * threads))
    return min(batch, rounds * threads)


def batch_slices(batch: int, shards: int) -> list[slice]:
    """Slices of nearly equal length that together cover the batch."""
    edges = [batch * i // shards for i in range(shards + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def map_shards(
    function: Callable[[Any], Any], shards: Sequence[Any], threads: int | None = None
) -> Iterator[Any]:
    """function(shard) for each, in parallel; the results in the order of the shards.

    At most one result more than there are threads exists at a time, so memory does not grow with
    the number of shards. With one shard, BLAS keeps its own threads, unless `threads` is one; with
    more, it has one: a product's last bits depend on how many BLAS has. Within a shard, more
    shards are mapped one by one.
    """
    configure_malloc()
    if len(shards) <= 1 and threads != 1:
        yield from map(function, shards)
        return
    threads = min(threads or cpu_count(), max(1, len(shards)))
    with single_threaded_blas():
        if threads == 1 or hasattr(_thread, "is_worker"):
            yield from map(function, shards)
            return
        waiting = iter(shards)
        running = [_pool(threads).submit(function, shard) for shard in islice(waiting, threads + 1)]
        try:
            while running:
                running[0].exception()  # waits; interrupted, it is still among the running
                yield running.pop(0).result()
                running += [_pool(threads).submit(function, shard) for shard in islice(waiting, 1)]
        finally:  # one failed, or no more are wanted
            for future in running:
                future.cancel()
            wait(running)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Workers that stay: to start two for every step costs a small model a tenth of its time."""
    return ThreadPoolExecutor(threads, initializer=_begin_worker)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads stay with the parent


_thread = threading.local()
_lock = threading.Lock()
_users = 0
_limit = None


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold BLAS to one thread. Counted: the last of several users at once gives the rest back."""
    global _users, _limit
    with _lock:
        if _users == 0:
            _heed_this_thread()
            _limit = _blas().limit(limits=1, user_api="blas")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _heed_this_thread()
                _limit.restore_original_limits()
                _heed_this_thread()  # and now whoever comes next


def _begin_worker() -> None:
    """Where a limit holds for one thread only, as MKL's does, each has to set it for itself."""
    _thread.is_worker = True
    with _lock:
        _blas().limit(limits=1, user_api="blas")


def _heed_this_thread() -> None:
    """OpenBLAS has one limit for all, and threadpoolctl 3.8 heeds only the first thread to set it.

    The last user of the limit may be in another thread, and would give nothing back.
    """
    for library in _blas().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all loaded libraries: once is enough


@cache
def configure_malloc() -> None:
    """Ask glibc to keep what is freed, as a step frees it and asks for it again a moment later.

    One arena for all threads: of one for each, glibc would return whatever falls empty.
    """
    with contextlib.suppress(OSError, AttributeError):  # no glibc: then its own habits stay
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8
        libc.mallopt(m_mmap_threshold, 32 << 20)
        libc.mallopt(m_trim_threshold, 1 << 30)
        libc.mallopt(m_arena_max, 1)
