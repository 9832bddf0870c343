"""What one kernel does on the GPU: its ceilings, and each fused layer beside its plain twin."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import minivit
from minivit import cost
from minivit.arrays import Array, matmul, sum_leading
from minivit.devices import set_matmul_precision
from minivit.layers import cross_entropy, gelu, layer_norm, mlp, softmax
from minivit.optim import adamw

LARGE = 8192  # rows and columns of the matrices whose product is timed
COPIED = 1 << 32  # bytes
SHORT = 0.05  # seconds: a burst of calls of one kernel
ROUNDS = 5
NOTHING = "template <typename T> __global__ void nothing(T* x) {}"


def timer(
    call: Callable[[], object], wait: Callable[[], None], length: float
) -> Callable[[], float]:
    """A function that tells how many seconds a call takes: of as many as fill `length`, the mean.

    The GPU is waited for before and after the burst, and not in between.
    """

    def seconds(calls: int) -> float:
        call()
        wait()
        started = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        return (time.perf_counter() - started) / calls

    calls = max(1, round(length / seconds(3)))
    return lambda: seconds(calls)


def medians(calls: dict[str, Callable], wait: Callable[[], None]) -> dict[str, float]:
    """Seconds a call of each, their bursts one after the other, round by round."""
    timers = {name: timer(call, wait, SHORT) for name, call in calls.items()}
    rounds = [{name: measure() for name, measure in timers.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(times[name] for times in rounds) for name in timers}


# --- the ceilings -----------------------------------------------------------------------------


class Ceilings(NamedTuple):
    """What the machine can do, by the same clock as all that follows."""

    products: dict[str, float]  # FLOP/s by precision
    copy: float  # bytes/s, read and written
    launch: float  # seconds from one launch to the next

    def of(self, precision: str) -> float:
        """The rate that products in one of the contest's precisions could have at most."""
        return self.products["float16" if precision == "half" else precision]


def rate_of_product(a: Array, b: Array, out: Array, wait: Callable[[], None]) -> float:
    """FLOP/s; nan if it fails, which is told."""
    try:
        seconds = medians({"": partial(matmul, a, b, out)}, wait)[""]
    except Exception as error:
        print(f"no product of {a.dtype}: {type(error).__name__}: {error}", flush=True)
        return math.nan
    return 2 * len(a) ** 3 / seconds


def ceilings(xp: ModuleType) -> Ceilings:
    from minivit.cuda.kernel import WARP, Kernel

    wait = xp.cuda.get_current_stream().synchronize
    rng = np.random.default_rng(0)
    draw = partial(rng.standard_normal, dtype=np.float32)
    a, b = (xp.asarray(draw((LARGE, LARGE))) for _ in range(2))
    products = {}
    for precision in ("float32", "tf32", "bfloat16", "float16"):
        if precision == "float16":
            a, b = a.astype("float16"), b.astype("float16")
        else:
            set_matmul_precision(precision)
        products[precision] = rate_of_product(a, b, xp.empty_like(a), wait)
    set_matmul_precision("float32")
    source = xp.ones(COPIED // 4, dtype="float32")
    target = xp.empty_like(source)
    copy = medians({"": partial(xp.copyto, target, source)}, wait)[""]
    launch = medians({"": partial(Kernel("nothing", NOTHING).launch, (1,), (WARP,), a)}, wait)[""]
    return Ceilings(products, 2 * source.nbytes / copy, launch)


def told(found: Ceilings) -> str:
    rates = ", ".join(f"{name} {rate / 1e12:.0f}" for name, rate in found.products.items())
    return (
        f"products of {LARGE} x {LARGE}, TFLOP/s: {rates} (bfloat16 is read from float32)\n"
        f"copy {found.copy / 1e12:.2f} TB/s, read and written; "
        f"a launch every {found.launch * 1e6:.1f} µs"
    )


# --- the layers -------------------------------------------------------------------------------


class LayerRow(NamedTuple):
    """A line of the layers' table."""

    layer: str
    dtype: str
    rows: int
    width: int
    plain_ms: float
    fused_ms: float
    bytes: int
    device: str
    driver: str
    cuda: str
    cupy: str


class Case(NamedTuple):
    """A layer, its arrays, and the gradient that its pullback is given, if it has one.

    `over` are the rows and their width, `written` what it writes into in place.
    """

    layer: str
    over: tuple[int, int]
    function: Callable[..., Any]
    arguments: tuple
    dy: Any = None
    written: tuple = ()
    options: dict[str, Any] | None = None


def cases(xp: ModuleType, config: minivit.ViTConfig, batch: int) -> Iterator[Case]:
    """The arrays of a training step of this model; one layer's at a time, as they are large."""
    D, M, K, T = config.width, config.mlp_width, config.classes, config.tokens
    n, pairs = batch * T, batch * config.heads * T
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        return xp.asarray(rng.standard_normal(shape, dtype=np.float32))

    yield Case("softmax", (pairs, T), softmax, (draw(pairs, T),), draw(pairs, T))
    yield Case("layer_norm", (n, D), layer_norm, (draw(n, D), draw(D), draw(D)), draw(n, D))
    for kind in ("tanh", "erf"):
        yield Case(f"gelu {kind}", (n, M), gelu, (draw(n, M), kind), draw(n, M))
    layers = [{"kernel": 0.02 * draw(*io), "bias": draw(io[1])} for io in ((D, M), (M, D))]
    yield Case("mlp", (n, D), mlp, (draw(n, D), *layers), draw(n, D))
    labels = xp.asarray(rng.integers(0, K, batch))
    yield Case("cross_entropy", (batch, K), cross_entropy, (draw(batch, K), labels), 1)
    yield Case("sum_rows", (n, M), sum_leading, (draw(n, M),))
    size = cost.totals(cost.rows(config, batch)).parameters
    p = 0.02 * draw(size)
    p, g, m, v = (p, 0.1 * p, 0.1 * p, p * p)
    how = {"kernels": size * 99 // 100, "rate": 1e-4, "keep": 0.99999, "unbias": 1.0, "eps": 1e-8}
    how |= {"beta1": 0.9, "beta2": 0.999}
    yield Case("adamw", (1, size), adamw, (p, g, m, v), None, (p, m, v), how)


def traffic(*trees: Any) -> int:
    """Bytes of all arrays in these trees, each once; what is no array has none."""
    total = 0
    for tree in trees:
        if isinstance(tree, (dict, list, tuple)):
            total += traffic(*(tree.values() if isinstance(tree, dict) else tree))
        else:
            total += getattr(tree, "nbytes", 0)
    return total


def measured(case: Case, wait: Callable[[], None]) -> Iterator[tuple[str, dict[str, float], int]]:
    """Name, seconds and bytes: of the way forth and, if there is one, the way back.

    The bytes are those of a layer that reads each of its inputs once and writes each output once.
    """
    name, how = case.layer, case.options or {}
    both = {"plain": case.function.dispatch(object), "fused": case.function}
    calls = {version: partial(f, *case.arguments, **how) for version, f in both.items()}
    results = {version: call() for version, call in calls.items()}
    made = case.written or results["fused"]  # a pullback is no array
    size = traffic(case.arguments, made)
    if case.dy is None:
        yield name, medians(calls, wait), size
        return
    yield f"{name} forward", medians(calls, wait), size
    backs = {version: partial(result[1], case.dy) for version, result in results.items()}
    size = traffic(case.arguments, case.dy, backs["fused"]())
    yield f"{name} backward", medians(backs, wait), size


def layers(
    xp: ModuleType, models: dict[str, tuple[minivit.ViTConfig, int]], names: tuple[str, ...]
) -> Iterator[LayerRow]:
    """Each fused layer and its plain twin on the arrays of some models.

    names: device, driver, CUDA and CuPy, as the rows have them. What fails is told and left.
    """
    wait = xp.cuda.get_current_stream().synchronize
    for config, batch in models.values():
        for case in cases(xp, config, batch):
            try:
                for layer, times, size in measured(case, wait):
                    both = (times["plain"] * 1e3, times["fused"] * 1e3)
                    yield LayerRow(layer, "float32", *case.over, *both, size, *names)
            except Exception as error:
                print(f"{case.layer} {case.over}: {type(error).__name__}: {error}", flush=True)


def layers_head() -> str:
    head = f"{'layer':24} {'rows x width':>18} {'plain':>11} {'fused':>11}"
    return f"{head}   fused/plain   of the copy's rate"


def layers_line(row: LayerRow, copy: float) -> str:
    over = f"{row.rows} x {row.width}"
    share = row.bytes / (row.fused_ms / 1e3) / copy
    return (
        f"{row.layer:24} {over:>18} {row.plain_ms:8.3f} ms {row.fused_ms:8.3f} ms "
        f"{row.fused_ms / row.plain_ms:13.2f} {share:20.0%}"
    )
