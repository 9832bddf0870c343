"""Cutting a batch and mapping its shards over threads: order, memory, errors, BLAS threads."""

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
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from minivit import parallel as shards
from minivit.parallel import (
    batch_slices,
    choose_shard_count,
    cpu_count,
    map_shards,
    single_threaded_blas,
)

DEADLINE = 20  # seconds after which a thread that waits for another gives up


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def three_blas_threads():
    """A number of threads that is neither one nor that of the machine."""
    with threadpool_limits(limits=3, user_api="blas"):
        assert blas_threads() == {3}
        yield


# --- cut -------------------------------------------------------------------------------------


@given(st.integers(0, 300), st.integers(1, 40))
def test_slices_cover_the_batch_in_order(batch, count):
    slices = batch_slices(batch, count)
    assert [i for part in slices for i in range(batch)[part]] == list(range(batch))
    sizes = [part.stop - part.start for part in slices]
    assert len(sizes) == count
    assert max(sizes) - min(sizes) <= 1


def test_slices_are_as_written_here():
    assert batch_slices(7, 3) == [slice(0, 2), slice(2, 4), slice(4, 7)]


# --- shard_count -----------------------------------------------------------------------------


@given(st.integers(1, 2000), st.integers(1, 300), st.integers(1, 33))
def test_no_shard_is_too_large_and_there_are_no_more_than_there_must_be(batch, at_most, threads):
    count = choose_shard_count(batch, at_most, threads)
    assert 1 <= count <= batch  # none is empty
    assert count == batch or count % threads == 0  # every thread has as many
    assert max(len(range(batch)[part]) for part in batch_slices(batch, count)) <= at_most
    fewer = count - threads if count % threads == 0 else count // threads * threads
    assert (
        fewer <= 0 or max(len(range(batch)[part]) for part in batch_slices(batch, fewer)) > at_most
    )


@pytest.mark.parametrize(
    ("batch", "at_most", "threads", "count"),
    [(1, 10, 2, 1), (64, 100, 2, 2), (64, 20, 2, 4), (64, 20, 3, 6), (3, 1, 2, 3), (8, 1, 2, 8)],
)
def test_shard_counts_are_as_written_here(batch, at_most, threads, count):
    assert choose_shard_count(batch, at_most, threads) == count


def test_the_number_of_threads_is_that_of_the_cores(monkeypatch):
    assert cpu_count() >= 1
    monkeypatch.setattr(shards, "cpu_count", lambda: 5)
    assert choose_shard_count(100, 100) == 5


# --- map_shards: order, threads, memory ------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 8, None])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_the_order_of_the_shards(threads, count):
    def slow_at_first(i):
        time.sleep(0.002 * (count - i))
        return i * i

    results = map_shards(slow_at_first, range(count), threads)
    assert list(results) == [i * i for i in range(count)]


@pytest.mark.parametrize("threads", [2, 3])
def test_as_many_shards_as_threads_run_at_once(threads):
    everyone = threading.Barrier(threads)  # breaks if one of them never comes
    list(map_shards(lambda _: everyone.wait(DEADLINE), range(threads), threads))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_never_more_shards_than_threads_run_at_once(threads):
    running, most, lock = [], [], threading.Lock()

    def function(i):
        with lock:
            running.append(i)
            most.append(len(running))
        time.sleep(0.002)
        with lock:
            running.remove(i)

    list(map_shards(function, range(4 * threads), threads))
    assert max(most) <= threads


class Result:
    """Something that a weak reference can point to."""


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_at_most_one_result_more_than_threads_is_alive(threads):
    alive = weakref.WeakSet()
    started = []

    def function(i):
        started.append(i)
        result = Result()
        alive.add(result)
        return result

    results = map_shards(function, range(20), threads)
    for taken in range(20):
        result = next(results)
        time.sleep(0.005)  # let the threads do all they are given
        assert len(alive) <= threads + 1
        assert len(started) <= taken + threads + 1
        del result
    assert len(started) == 20


def test_nothing_runs_before_the_first_result_is_asked_for():
    started = []
    map_shards(started.append, range(5), 2)
    assert started == []


# --- map_shards: what goes wrong -------------------------------------------------------------


class Broken(Exception):
    """What no other code raises."""


def breaks_at(place, started):
    def function(i):
        started.append(i)
        if i == place:
            raise Broken(f"shard {i}")
        return i

    return function


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("place", [0, 3, 9])
def test_an_exception_reaches_the_caller_in_its_turn(threads, place):
    started, seen = [], []
    with pytest.raises(Broken, match=f"shard {place}"):
        seen.extend(map_shards(breaks_at(place, started), range(10), threads))
    results = map_shards(breaks_at(place, []), range(10), threads)
    assert [next(results) for _ in range(place)] == list(range(place))
    with pytest.raises(Broken):
        next(results)
    assert max(started) <= place + threads  # the rest is not even begun


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_blas_has_one_thread_in_each_shard_and_its_own_again_after(threads, three_blas_threads):
    inside = list(map_shards(lambda _: blas_threads(), range(4), threads))
    assert inside == [{1}] * 4  # with one thread too: the bits of a product depend on it
    assert blas_threads() == {3}


def test_a_single_shard_leaves_blas_its_threads(three_blas_threads):
    assert list(map_shards(lambda _: blas_threads(), [0], 2)) == [{3}]
    assert list(map_shards(lambda _: blas_threads(), [0])) == [{3}]


def test_one_thread_is_one_thread_of_blas_too(three_blas_threads):
    assert list(map_shards(lambda _: blas_threads(), [0], 1)) == [{1}]
    assert blas_threads() == {3}


@pytest.mark.parametrize("threads", [1, 2])
def test_blas_gets_its_threads_back_when_a_shard_fails(threads, three_blas_threads):
    with pytest.raises(Broken) as kept:  # with its traceback, and so all frames of the call
        list(map_shards(breaks_at(1, []), range(4), threads))
    assert blas_threads() == {3}
    assert kept.traceback


def test_blas_gets_its_threads_back_when_the_caller_stops_early(three_blas_threads):
    list(map_shards(str, range(2), 2))  # the workers, who stay
    started = []
    before = threading.active_count()
    results = map_shards(breaks_at(None, started), range(50), 2)
    next(results)
    assert blas_threads() == {1}
    results.close()
    gc.collect()
    assert blas_threads() == {3}
    assert threading.active_count() == before
    assert len(started) <= 4


# --- the limit is counted --------------------------------------------------------------------


def test_the_last_of_two_users_gives_the_threads_back(three_blas_threads):
    first, second = single_threaded_blas(), single_threaded_blas()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert blas_threads() == {1}  # the second still needs it
    second.__exit__(None, None, None)
    assert blas_threads() == {3}


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def two_users_in_two_threads():
    """The first to come is the first to leave, and the last is in another thread."""
    first_left = threading.Event()

    def second():
        with single_threaded_blas():
            has_come.set()
            first_left.wait(DEADLINE)
            seen.append(blas_threads())

    has_come, seen = threading.Event(), []
    with single_threaded_blas():
        thread = in_a_thread(second)
        has_come.wait(DEADLINE)
    first_left.set()
    thread.join(DEADLINE)
    return seen


def test_the_threads_come_back_whichever_thread_is_the_last_user(three_blas_threads):
    assert two_users_in_two_threads() == [{1}]
    assert blas_threads() == {3}


def test_the_threads_come_back_to_what_they_were_when_nobody_had_set_them():
    before = blas_threads()
    assert two_users_in_two_threads() == [{1}]
    assert blas_threads() == before


def test_a_map_in_another_thread_has_one_blas_thread_too():
    list(map_shards(lambda _: None, range(2), 2))  # somebody else was there first
    seen = []
    call = in_a_thread(lambda: seen.extend(map_shards(lambda _: blas_threads(), range(3), 2)))
    call.join(DEADLINE)
    assert seen == [{1}] * 3


class PerThread:
    """A BLAS whose limit holds for the thread that sets it, and for no other."""

    lib_controllers = ()

    def __init__(self):
        self.mine = threading.local()

    def limit(self, limits, user_api):
        self.mine.limit = limits
        return self

    def restore_original_limits(self):
        del self.mine.limit


@pytest.mark.parametrize("threads", [1, 2])
def test_a_limit_that_holds_for_one_thread_is_set_in_every_one(threads, monkeypatch):
    blas = PerThread()
    monkeypatch.setattr(shards, "_blas", lambda: blas)
    shards._pool.cache_clear()  # no worker has begun yet
    limits = map_shards(lambda _: getattr(blas.mine, "limit", None), range(5), threads)
    assert list(limits) == [1] * 5
    assert not hasattr(blas.mine, "limit")
    shards._pool.cache_clear()


def test_the_workers_stay():
    def worker(_):
        everyone.wait(DEADLINE)
        return threading.get_ident()

    everyone = threading.Barrier(2)
    first, second = (set(map_shards(worker, range(2), 2)) for _ in range(2))
    assert first == second


def test_nothing_runs_any_more_when_the_caller_has_stopped():
    running = []

    def slow(i):
        running.append(i)
        time.sleep(0.02)
        running.remove(i)

    results = map_shards(slow, range(10), 2)
    next(results)
    results.close()
    assert running == []


def test_nothing_runs_any_more_when_the_caller_was_interrupted(monkeypatch):
    running = []

    def slow(i):
        running.append(i)
        time.sleep(0.02)
        if i == 0:
            os.kill(os.getpid(), signal.SIGINT)  # heard by the caller, who waits for this one
            time.sleep(0.05)
        running.remove(i)

    with pytest.raises(KeyboardInterrupt):
        list(map_shards(slow, range(10), 2))
    assert running == []


def test_a_shard_may_be_cut_again():
    # Were the inner shards to wait for the two workers, which wait for them, nothing would end.
    inner = lambda i: sum(map_shards(lambda j: 10 * i + j, range(3), 2))  # noqa: E731
    seen = []
    call = in_a_thread(lambda: seen.extend(map_shards(inner, range(4), 2)))
    call.join(DEADLINE)
    assert seen == [3, 33, 63, 93]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_has_workers_of_its_own():
    list(map_shards(lambda i: i, range(3), 2))
    child = os.fork()
    if child == 0:
        signal.alarm(int(DEADLINE))  # ends it, should it wait for the parent's workers
        os._exit(list(map_shards(lambda i: i, range(3), 2)) != [0, 1, 2])
    assert os.waitpid(child, 0)[1] == 0


def test_two_maps_at_once_leave_blas_as_it_was(three_blas_threads):
    both = threading.Barrier(2)

    def one_map():
        for _ in range(5):
            both.wait(DEADLINE)
            seen.extend(map_shards(lambda _: blas_threads(), range(3), 2))

    seen = []
    for caller in [in_a_thread(one_map), in_a_thread(one_map)]:
        caller.join(DEADLINE)
    assert seen == [{1}] * 30
    assert blas_threads() == {3}


def test_the_limit_can_be_set_again_and_again(three_blas_threads):
    for _ in range(3):
        with single_threaded_blas():
            assert blas_threads() == {1}
        assert blas_threads() == {3}


FAULTS = """
import numpy as np
from resource import RUSAGE_SELF, getrusage
from minivit.shards import map_shards

def shard(_):
    arrays = [np.ones(3 << 20, np.float32) for _ in range(8)]  # 12 MB each

faults = []
for _ in range(4):
    list(map_shards(shard, range(COUNT), 2))
    faults.append(getrusage(RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-2])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have other habits")
@pytest.mark.parametrize("count", [1, 4])
def test_the_memory_of_one_call_serves_the_next(count):
    code = FAULTS.replace("COUNT", str(count))  # a process of its own, whose memory is its own
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 1000  # pages; one array alone has 3072
