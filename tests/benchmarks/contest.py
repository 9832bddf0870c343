"""What the benchmarks share: contestants in processes of their own, clock, memory, and the floor.

Everyone has as many threads as this process may use cores: `taskset -c 0 python ...` gives one.
"""

import multiprocessing
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from minivit.parallel import cpu_count

LARGE = 2048  # rows and columns of the floor's matrices
BURST = 0.5  # seconds: what is shorter is repeated within a round, as training repeats it
STATUS = Path("/proc/self/status")
PROCESSORS = Path("/proc/cpuinfo")
POOLS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "PJRT_NPROC", "NPROC")


def hold_threads() -> None:
    """One thread a core in every process started from here: BLAS, OpenMP and XLA read these.

    XLA would otherwise count the cores, and BLAS heed what the caller's shell had set.
    """
    os.environ |= dict.fromkeys(POOLS, str(cpu_count())) | {"JAX_PLATFORMS": "cpu"}


def warn_if_busy() -> None:
    """Say so if others use the cores: those whose threads wait for each other lose most by it."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        print(f"The machine is busy (load {load:.1f}): these times tell little.", flush=True)


def start(target: Callable[..., None], *args: object) -> Connection:
    """A fresh process that runs target(pipe, *args): one allocator, one pool, one peak of memory.

    When it ends, the pipe does.
    """
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe()
    context.Process(target=target, args=(end, *args), daemon=True).start()
    end.close()
    return pipe


def serve(pipe: Connection, function: Callable[[], object], unit: float = 1.0) -> None:
    """Answer "time" with the median of a burst of calls, in seconds a unit, until told to stop.

    The first call is not timed: it finds the caches full of another's arrays. In a training step
    follows step.
    """
    while pipe.recv() == "time":
        function()
        times = []
        while sum(times) < BURST:
            times.append(seconds(function))
        pipe.send(statistics.median(times) / unit)


def serve_floor(pipe: Connection) -> None:
    """Seconds for one FLOP within NumPy's product of two large float32 matrices, on all cores."""
    a, b = np.random.default_rng(0).standard_normal((2, LARGE, LARGE), dtype=np.float32)
    out = np.empty_like(a)
    np.matmul(a, b, out=out)
    serve(pipe, lambda: np.matmul(a, b, out=out), unit=2 * LARGE**3)


def interleaved(pipes: dict[str, Connection], rounds: int) -> dict[str, list[float]]:
    """The answer of each, round by round, in another order every time."""
    times = {name: [] for name in pipes}
    order, generator = list(pipes), random.Random(0)
    for _ in range(rounds):
        generator.shuffle(order)
        for name in order:
            time.sleep(0.3)  # let the idle threads of the other fall asleep
            pipes[name].send("time")
            times[name].append(pipes[name].recv())
    return times


def dismiss(pipes: dict[str, Connection]) -> None:
    """Tell all to stop, and wait until they have ended: the next ones shall have the cores."""
    for pipe in pipes.values():
        pipe.send("stop")
    for process in multiprocessing.active_children():
        process.join(30)


def quartiles(ours: list[float], theirs: list[float]) -> list[float]:
    """Of the ratio within a round: the lower quartile, the median, the upper quartile."""
    return np.quantile(np.divide(ours, theirs), [0.25, 0.5, 0.75]).tolist()


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def memory(line: str) -> float:
    """Megabytes that Linux reports of this process; elsewhere nan.

    Not `ru_maxrss`, which a process takes over from the one that started it.
    """
    if not STATUS.exists():
        return float("nan")
    return next(int(row.split()[1]) for row in STATUS.open() if row.startswith(line)) / 1024


def processor() -> str:
    """What the machine's processor is called."""
    rows = PROCESSORS.read_text().splitlines() if PROCESSORS.exists() else []
    names = (row.partition(":")[2].strip() for row in rows if row.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
