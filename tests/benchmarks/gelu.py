"""Nanoseconds an element of the exact GELU in float32, beside SciPy's erf alone.

    python tests/benchmarks/gelu.py

Needs `scipy` beside minivit. Rounds are interleaved; one thread.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from minivit.layers import gelu
from minivit.parallel import configure_malloc, single_threaded_blas

try:
    from scipy.special import erf
except ImportError:
    sys.exit("this benchmark compares with SciPy: install scipy first")

ROUNDS, SIZE = 31, 1_000_000


def nanoseconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) / SIZE * 1e9


def main() -> None:
    configure_malloc()  # as every sharded step does
    x = np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32)
    calls = {
        "minivit gelu, erf": lambda: gelu(x, "erf"),
        "minivit gelu, tanh": lambda: gelu(x, "tanh"),
        "SciPy erf": lambda: erf(x),
    }
    with single_threaded_blas():
        rounds = [[nanoseconds(call) for call in calls.values()] for _ in range(ROUNDS)]
    for name, times in zip(calls, zip(*rounds, strict=True), strict=True):
        ratio = statistics.median(t / r[-1] for t, r in zip(times, rounds, strict=True))
        print(f"{name:20} {statistics.median(times):6.2f} ns, {ratio:.2f} of SciPy's erf")


if __name__ == "__main__":
    main()
