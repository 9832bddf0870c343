"""Shards of a batch on several threads: order, memory, errors, and BLAS's thread limit."""

import gc
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest
from helpers.models import blas_threads, three_blas_threads  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from minivit import parallel
from minivit.parallel import (
    batch_slices,
    choose_shard_count,
    map_shards,
    single_threaded_blas,
)

DEADLINE = 20  # seconds after which a thread stops waiting for another one
limited = pytest.mark.usefixtures("three_blas_threads")

# --- slices and shard counts ---------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 40))
def test_slices_cover_the_batch_in_order_and_have_nearly_equal_lengths(batch, count):
    slices = batch_slices(batch, count)
    assert [i for part in slices for i in range(batch)[part]] == list(range(batch))
    sizes = [part.stop - part.start for part in slices]
    assert len(sizes) == count
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 300), st.integers(1, 33))
def test_the_shard_count_is_the_smallest_with_shards_of_the_maximum_size(
    batch, max_images, threads
):
    def largest(count):
        return max(len(range(batch)[part]) for part in batch_slices(batch, count))

    count = choose_shard_count(batch, max_images, threads)
    assert 1 <= count <= batch  # no shard is empty
    assert count == batch or count % threads == 0  # every thread has the same number of shards
    assert largest(count) <= max_images
    fewer = count - threads if count % threads == 0 else count // threads * threads
    assert fewer <= 0 or largest(fewer) > max_images


# --- order, threads and memory -------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 8, None])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_have_the_order_of_the_shards(threads, count):
    def square(i):
        time.sleep(0.002 * (count - i))  # the first shard takes longest
        return i * i

    assert list(map_shards(square, range(count), threads)) == [i * i for i in range(count)]


@pytest.mark.parametrize("threads", [2, 3])
def test_as_many_shards_as_threads_run_at_the_same_time(threads):
    barrier = threading.Barrier(threads)  # raises an error if one of them does not arrive
    list(map_shards(lambda _: barrier.wait(DEADLINE), range(threads), threads))


class Result:
    """An object that a weak reference can refer to."""


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_at_most_threads_shards_run_and_threads_plus_one_results_exist(threads):
    running, most, started, lock = [], [], [], threading.Lock()
    alive = weakref.WeakSet()

    def function(i):
        started.append(i)
        with lock:
            running.append(i)
            most.append(len(running))
        time.sleep(0.002)
        with lock:
            running.remove(i)
        alive.add(result := Result())
        return result

    results = map_shards(function, range(20), threads)
    assert started == []  # nothing runs before the first result is requested
    for taken in range(20):
        result = next(results)
        time.sleep(0.005)  # let the threads work ahead
        assert len(alive) <= threads + 1
        assert len(started) <= taken + threads + 1
        del result
    assert len(started) == 20
    assert max(most) <= threads


def test_the_threads_of_the_pool_are_reused():
    def worker(_):
        barrier.wait(DEADLINE)
        return threading.get_ident()

    barrier = threading.Barrier(2)
    first, second = (set(map_shards(worker, range(2), 2)) for _ in range(2))
    assert first == second


def test_a_call_inside_a_shard_does_not_wait_for_the_pool():
    # If the inner shards waited for the two threads that wait for them, this would not end.
    inner = lambda i: sum(map_shards(lambda j: 10 * i + j, range(3), 2))  # noqa: E731
    seen = []
    start(lambda: seen.extend(map_shards(inner, range(4), 2))).join(DEADLINE)
    assert seen == [3, 33, 63, 93]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_creates_a_new_pool():
    list(map_shards(lambda i: i, range(3), 2))
    child = os.fork()
    if child == 0:
        signal.alarm(DEADLINE)  # ends the child if it waits for the parent's threads
        os._exit(list(map_shards(lambda i: i, range(3), 2)) != [0, 1, 2])
    assert os.waitpid(child, 0)[1] == 0


PAGE_FAULTS = """
import numpy as np
from resource import RUSAGE_SELF, getrusage
from minivit.parallel import map_shards

def shard(_):
    arrays = [np.ones(3 << 20, np.float32) for _ in range(8)]  # 12 MB each

faults = []
for _ in range(4):
    list(map_shards(shard, range(COUNT), 2))
    faults.append(getrusage(RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-2])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="configure_malloc is for glibc")
@pytest.mark.parametrize("count", [1, 4])
def test_the_next_call_reuses_the_memory_of_the_previous_one(count):
    code = PAGE_FAULTS.replace("COUNT", str(count))  # in a separate process
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 1500  # pages; a single new array would need 3072


# --- errors and interruptions --------------------------------------------------------------------


class Broken(Exception):
    """An exception that no other code raises."""


def fail_at(shard, started):
    def function(i):
        started.append(i)
        if i == shard:
            raise Broken(f"shard {i}")
        return i

    return function


@limited
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shard", [0, 3, 9])
def test_an_exception_reaches_the_caller_after_the_results_of_earlier_shards(threads, shard):
    started, seen = [], []
    with pytest.raises(Broken, match=f"shard {shard}") as caught:  # noqa: PT012
        for result in map_shards(fail_at(shard, started), range(10), threads):
            seen.append(result)
    assert seen == list(range(shard))
    assert max(started) <= shard + threads  # later shards do not start
    assert blas_threads() == {3}  # although the traceback keeps the frames of the call
    assert caught.traceback


@limited
def test_closing_the_generator_ends_all_shards_and_restores_the_thread_limit():
    list(map_shards(str, range(2), 2))  # start the pool
    started, running, before = [], [], threading.active_count()

    def slow(i):
        started.append(i)
        running.append(i)
        time.sleep(0.02)
        running.remove(i)

    results = map_shards(slow, range(50), 2)
    next(results)
    assert blas_threads() == {1}
    results.close()
    gc.collect()
    assert running == []
    assert len(started) <= 4
    assert blas_threads() == {3}
    assert threading.active_count() == before


@limited
def test_an_interruption_waits_for_the_running_shards():
    running = []

    def slow(i):
        running.append(i)
        time.sleep(0.02)
        if i == 0:
            os.kill(os.getpid(), signal.SIGINT)  # handled by the caller, which waits for shard 0
            time.sleep(0.05)
        running.remove(i)

    with pytest.raises(KeyboardInterrupt):
        list(map_shards(slow, range(10), 2))
    assert running == []
    assert blas_threads() == {3}


# --- BLAS's thread limit -------------------------------------------------------------------------


@limited
@pytest.mark.parametrize(
    ("shards", "threads", "limit"),
    [(1, None, 3), (1, 2, 3), (1, 1, 1), (4, 1, 1), (4, 2, 1), (4, 3, 1)],
)
def test_only_a_single_shard_uses_all_blas_threads(shards, threads, limit):
    # The bits of a product depend on BLAS's threads, so several shards have one on one thread too.
    assert list(map_shards(lambda _: blas_threads(), range(shards), threads)) == [{limit}] * shards
    assert blas_threads() == {3}


@limited
def test_the_last_user_restores_the_limit():
    for _ in range(3):  # the limit can be set repeatedly
        first, second = single_threaded_blas(), single_threaded_blas()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas_threads() == {1}  # the second user still needs it
        second.__exit__(None, None, None)
        assert blas_threads() == {3}


def start(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_the_last_user_may_be_another_thread():
    before = blas_threads()
    entered, left, seen = threading.Event(), threading.Event(), []

    def second():
        with single_threaded_blas():
            entered.set()
            left.wait(DEADLINE)
            seen.append(blas_threads())

    with single_threaded_blas():
        thread = start(second)
        entered.wait(DEADLINE)
    left.set()
    thread.join(DEADLINE)
    assert seen == [{1}]
    assert blas_threads() == before


@limited
def test_concurrent_calls_from_two_threads_use_one_blas_thread_and_restore_the_limit():
    list(map_shards(lambda _: None, range(2), 2))  # this thread sets the limit first
    both, seen = threading.Barrier(2), []

    def several_calls():
        for _ in range(5):
            both.wait(DEADLINE)
            seen.extend(map_shards(lambda _: blas_threads(), range(3), 2))

    for thread in [start(several_calls), start(several_calls)]:
        thread.join(DEADLINE)
    assert seen == [{1}] * 30
    assert blas_threads() == {3}


class PerThread:
    """A BLAS like MKL: a limit applies to the thread that sets it."""

    lib_controllers = ()

    def __init__(self):
        self.local = threading.local()

    def limit(self, limits, user_api):
        self.local.limit = limits
        return self

    def restore_original_limits(self):
        del self.local.limit


@pytest.mark.parametrize("threads", [1, 2])
def test_the_limit_is_set_in_every_thread(threads, monkeypatch):
    blas = PerThread()
    monkeypatch.setattr(parallel, "_blas", lambda: blas)
    parallel._pool.cache_clear()  # start new threads
    limits = map_shards(lambda _: getattr(blas.local, "limit", None), range(5), threads)
    assert list(limits) == [1] * 5
    assert not hasattr(blas.local, "limit")
    parallel._pool.cache_clear()
