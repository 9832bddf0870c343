"""Split a batch into shards and process them in a pool of threads, with one BLAS thread each.

NumPy releases the GIL inside its loops and matrix products, so shards run concurrently, one per
core. A shard fits in the CPU cache, which makes this faster than multithreaded BLAS on the batch.
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import islice, pairwise
from typing import Any

from threadpoolctl import ThreadpoolController


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_threads(threads: int | None) -> int:
    """Return the number of threads, by default one per core. Raises ValueError if it is below 1."""
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    return threads or cpu_count()


def choose_shard_count(batch_size: int, max_images: int, threads: int | None = None) -> int:
    """Return the number of shards of at most `max_images`, a multiple of `threads` if possible."""
    threads = count_threads(threads)
    rounds = -(-batch_size // (max_images * threads))
    return min(batch_size, rounds * threads)


def batch_slices(batch_size: int, shards: int) -> list[slice]:
    """Return slices of nearly equal length that together cover the batch."""
    edges = [batch_size * i // shards for i in range(shards + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def map_shards(
    function: Callable[[Any], Any], shards: Sequence[Any], threads: int | None = None
) -> Generator[Any, None, None]:
    """Apply function(shard) to each shard in parallel. Yield the results in order.

    At most threads + 1 results exist at a time, so memory does not grow with the number of shards.
    A single shard uses all BLAS threads, unless `threads` is 1. Several shards use one BLAS thread
    each, because the last bits of a product depend on the number of BLAS threads. A nested call
    processes its shards sequentially.
    """
    configure_malloc()
    count = count_threads(threads)
    if len(shards) <= 1 and threads != 1:
        yield from map(function, shards)
        return
    threads = min(count, max(1, len(shards)))
    with single_threaded_blas():
        if threads == 1 or hasattr(_thread, "is_worker"):
            yield from map(function, shards)
            return
        pool, remaining = _pool(threads), iter(shards)
        running = [pool.submit(function, shard) for shard in islice(remaining, threads + 1)]
        try:
            while running:
                running[0].exception()  # wait first: an interrupt leaves the future in `running`
                yield running.pop(0).result()
                running += [pool.submit(function, shard) for shard in islice(remaining, 1)]
        finally:  # also if a shard failed or the caller stops early
            for future in running:
                future.cancel()
            wait(running)


def map_parts(function: Callable[[Any], Any], batch: Any, size: int) -> Iterator[Any]:
    """Apply a function to successive parts of a batch. Halve `size` if memory runs out."""
    start = 0
    while start < len(batch):
        try:
            result = function(batch[start : start + size])
        except MemoryError:
            if size == 1:
                raise
            size //= 2
            continue
        yield result
        start += size


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a reused pool: starting threads takes 10% of a training step of a small model."""
    return ThreadPoolExecutor(threads, initializer=_initialise_worker)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has no threads


_thread = threading.local()
_lock = threading.Lock()
_users = 0
_limiter: Any = None


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS to one thread until the last of all nested and concurrent users exits."""
    global _users, _limiter
    with _lock:
        if _users == 0:
            _release_controlling_thread()
            _limiter = _blas().limit(limits=1, user_api="blas")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _release_controlling_thread()
                _limiter.restore_original_limits()
                _release_controlling_thread()


def _initialise_worker() -> None:
    """Limit BLAS in this thread too, because MKL's limit applies to the calling thread only."""
    _thread.is_worker = True
    with _lock:
        _blas().limit(limits=1, user_api="blas")


def _release_controlling_thread() -> None:
    """Allow any thread to change OpenBLAS's limit.

    In threadpoolctl 3.8, only the thread that first set the limit may change it, but the last user
    of the limit may be another thread.
    """
    for library in _blas().lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()  # scans all loaded libraries, so do it once


@cache
def configure_malloc() -> None:
    """Configure glibc to retain freed memory, because each step allocates the same arrays again.

    All threads share one arena, because glibc would release an arena that becomes empty.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8
        libc.mallopt(m_mmap_threshold, 32 << 20)
        libc.mallopt(m_trim_threshold, 1 << 30)
        libc.mallopt(m_arena_max, 1)
