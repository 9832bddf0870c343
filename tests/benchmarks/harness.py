"""The harness of all benchmarks: contenders in separate processes, interleaved rounds, CSV files.

Each contender runs in a new process, because allocators, thread pools and precision settings belong
to a process. It uses one thread per available core; `taskset -c 0 python ...` limits it to one. The
results are compared first. In every round, each contender runs a burst of calls. A ratio is the
time of the first contender divided by that of another in the same round. The tables contain the
median and the quartiles. The last column is the time of the lower bound divided by the contender's.
"""

import argparse
import contextlib
import csv
import ctypes
import math
import multiprocessing
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minivit.parallel import cpu_count

LOWER_BOUND = "lower bound: matrix products"
WARM_UP = 3  # calls before the first measurement
BURST = 0.4  # seconds of calls per round
MIN_NORM = 1e-2  # of the norm of all results; errors of smaller arrays are relative to it
PROC = Path("/proc")
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "PJRT_NPROC", "NPROC")

Row = dict[str, Any]


class Task(NamedTuple):
    """A call to time, in the process of a contender."""

    call: Callable[[], object]
    results: Callable[[], dict[str, np.ndarray]] = dict  # for the comparison
    wait: Callable[[], object] = lambda: None  # waits for the device
    peak: Callable[[], float] | None = None  # MB during a call; by default, of the process


class Contender(NamedTuple):
    """A class in a module next to this file: Class(**options)(*arguments) returns a Task."""

    package: str
    path: str  # "module.Class"
    options: Any = ()  # {name: value}
    work: int = 0  # of one call, in FLOP or bytes, if this contender is the lower bound


class Case(NamedTuple):
    """A task and its contenders. The first one is the reference."""

    columns: Row  # of the CSV file, and the title of the table
    contenders: dict[str, Contender]
    arguments: tuple[Any, ...]
    tolerance: float = 1e-5
    work: int = 0  # of the task, in the unit of the lower bound
    above_baseline: bool = False  # memory without code, weights and inputs
    pause: float = 0.3  # seconds, in which the threads of the last contender become idle
    group: str | None = None  # successive cases of one group share the processes


# In the process of a contender


def initialise(contender: Contender) -> None:
    global make_task
    module, _, name = contender.path.partition(".")
    make_task = getattr(import_module(module), name)(**dict(contender.options))


def prepare(*arguments: Any) -> list[str]:
    """Create a task, warm up, and return the names of its results."""
    global task, baseline, results
    task = make_task(*arguments)
    with contextlib.suppress(OSError, AttributeError):  # measure the peak from here
        ctypes.CDLL(None).malloc_trim(0)
        (PROC / "self/clear_refs").write_text("5")
    baseline = memory("VmRSS")
    for _ in range(WARM_UP):
        task.call()
    results = task.results()
    return list(results)


def pop_result(name: str) -> np.ndarray:
    """Return one result. Sending all at once would require memory for all."""
    return results.pop(name)


def time_burst() -> float:
    """Return the seconds per call, averaged over about BURST seconds."""

    def seconds_per_call(calls: int) -> float:
        task.wait()
        started = time.perf_counter()
        for _ in range(calls):
            task.call()
        task.wait()
        return (time.perf_counter() - started) / calls

    task.call()  # not timed: another process has filled the caches
    first = seconds_per_call(1)
    return seconds_per_call(round(BURST / first)) if first < BURST else first


def peak_memory(above_baseline: bool) -> float:
    return task.peak() if task.peak else memory("VmHWM") - baseline * above_baseline


def memory(line: str) -> float:
    """Return MB from /proc, or nan without it. `ru_maxrss` would include the parent process."""
    with contextlib.suppress(OSError):
        for row in (PROC / "self/status").read_text().splitlines():
            if row.startswith(line):
                return int(row.split()[1]) / 1024
    return math.nan


# In the process of the benchmark


def run(cases: Iterable[Case], rounds: int, path: Path | None, device: Row | None = None) -> None:
    """Run all cases. Print a table and rewrite the CSV file after each."""
    os.environ |= dict.fromkeys(THREADS, str(cpu_count())) | {"JAX_PLATFORMS": "cpu"}
    context = multiprocessing.get_context("spawn")
    rows, group, processes = [], None, {}
    for case in cases:
        if case.group is None or case.group != group:
            for process in processes.values():
                process.shutdown()
            processes, group = {}, case.group
        for name, contender in case.contenders.items():
            if name not in processes and util.find_spec(contender.package):
                processes[name] = ProcessPoolExecutor(1, context, initialise, (contender,))
        available = {name: processes[name] for name in case.contenders if name in processes}
        results = run_case(case, available, rounds)
        print_table(", ".join(str(value) for value in case.columns.values() if value), results)
        rows += [case.columns | row | machine() | (device or {}) for row in results]
        if path and rows:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(rows[0])
                for row in rows:
                    text = (f"{x:.5g}" if isinstance(x, float) else x for x in row.values())
                    writer.writerow("" if x == "nan" else x for x in text)


def run_case(case: Case, processes: dict[str, ProcessPoolExecutor], rounds: int) -> list[Row]:
    """Run one case. Contenders that fail or compute other results are dropped with a message."""

    def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return processes[name].submit(function, *arguments).result()

    reference: dict[str, np.ndarray] = {}
    times: dict[str, list[float]] = {}
    for name in processes:
        with dropped_on_failure(name):
            keys = call(name, prepare, *case.arguments)
            arrays = {key: call(name, pop_result, key) for key in keys}
            reference = reference or arrays
            if arrays:  # the lower bound has none
                compare(reference, arrays, case.tolerance)
            times[name] = []
    generator = random.Random(0)
    for number in range(rounds):
        for name in generator.sample(list(times), len(times)):
            time.sleep(case.pause)
            with dropped_on_failure(name):
                times[name].append(call(name, time_burst))
        times = {name: seconds for name, seconds in times.items() if len(seconds) > number}
    bound = [math.nan] * rounds
    for name in times:
        if case.contenders[name].work:
            bound = times[name] = [t * case.work / case.contenders[name].work for t in times[name]]
    rows = []
    for name, seconds in times.items():
        ratios = np.divide(next(iter(times.values())), seconds)
        package, is_bound = case.contenders[name].package, seconds is bound
        row = {"contestant": name, "version": f"{package} {metadata.version(package)}"}
        row["median_ms"] = 1e3 * statistics.median(seconds)
        for quantity, q in {"median": 0.5, "low": 0.25, "high": 0.75}.items():
            row[f"ratio_{quantity}"] = float(np.quantile(ratios, q))
        row["peak_mb"] = math.nan if is_bound else call(name, peak_memory, case.above_baseline)
        row["share_of_floor"] = float(np.median(np.divide(bound, seconds)))
        rows.append(row | {"rounds": rounds})
    return rows


@contextlib.contextmanager
def dropped_on_failure(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        print(f"{name} is dropped: {type(error).__name__}: {first_line}", flush=True)


def compare(
    reference: dict[str, np.ndarray], arrays: dict[str, np.ndarray], tolerance: float
) -> None:
    """Raise ValueError if the names differ or an error relative to an array's norm is too large."""
    if set(reference) != set(arrays):
        raise ValueError(f"other results: {', '.join(sorted(set(reference) ^ set(arrays)))}")
    norms = {name: float(np.linalg.norm(a)) for name, a in reference.items()}
    min_norm = MIN_NORM * math.hypot(*norms.values())
    for name, norm in norms.items():
        error = float(np.linalg.norm(arrays[name] - reference[name])) / max(norm, min_norm)
        if not error <= tolerance:  # nan is an error
            raise ValueError(f"{name} differs by {error:.1e}")


def print_table(title: str, rows: list[Row]) -> None:
    print(f"\n{title:32}{'median':>12}{'time ratio':>23}{'peak memory':>14}{'bound':>8}")
    for r in rows:
        ratio = f"{r['ratio_median']:.2f} ({r['ratio_low']:.2f} to {r['ratio_high']:.2f})"
        peak = "" if math.isnan(r["peak_mb"]) else f"{r['peak_mb']:,.0f} MB"
        share = "" if math.isnan(r["share_of_floor"]) else f"{r['share_of_floor']:.0%}"
        line = f"  {r['contestant']:30}{r['median_ms']:9.3f} ms{ratio:>23}{peak:>14}{share:>8}"
        print(line.rstrip(), flush=True)


def make_parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    style = {"description": description, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser, text = argparse.ArgumentParser(**style), f"number of rounds (default: {rounds})"
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help=text)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table to a file")
    return parser


def parse(parser: argparse.ArgumentParser, packages: Iterable[str] = ()) -> argparse.Namespace:
    """Parse and check the options. Print missing packages, and a warning on a busy machine."""
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {args.rounds}")
    if args.csv and not args.csv.parent.is_dir():
        parser.error(f"--csv {args.csv}: there is no folder {args.csv.parent}")
    missing = [package for package in packages if not util.find_spec(package)]
    if missing:
        print(f"not installed, skipped: {', '.join(missing)}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        print(f"The machine is busy (load {load:.1f}); the times are unreliable.")
    return args


def machine() -> Row:
    """Return the columns about this machine."""
    cpuinfo = PROC / "cpuinfo"
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {"threads": cpu_count(), "machine": next(names, platform.processor())}
