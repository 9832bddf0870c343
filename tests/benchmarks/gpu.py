"""minivit on a GPU against PyTorch on the same GPU, and against the rate of its matrix products.

    python tests/benchmarks/gpu.py --csv gpu_step.csv --layers gpu_layers.csv --graph

Needs CuPy and a GPU. The peers, if PyTorch is there: eager with its fused attention, the same with
its fused AdamW, and `torch.compile` with both, in tf32 and half and where there are gradients. All
hold the same weights, images and labels on the GPU, and their results stay there. Timed are

    forward    the logits, keeping nothing
    gradients  the loss and the gradients of all parameters
    step       the same and an AdamW update

in float32, in tf32, whose products read float32 with ten bits behind the point, and in half. Half
is not the same for all: minivit's arrays are float32, of which its products read bfloat16;
PyTorch's autocast keeps bfloat16 arrays as well. Before anything is timed, losses and all gradients
are compared with minivit's, in half and tf32 only as far as their few digits go (see TOLERANCE);
who computes something else is named and not timed.

Each contestant of a model is a process of its own. All start at once, so that what has to be
compiled is compiled side by side, and nothing is timed before all are ready. Then rounds are
interleaved: in each, everyone has a burst of calls between two waits for the GPU. A ratio is
minivit's time over the other's of the same round: the median, and the quartiles. FLOP are those of
minivit's ledger (`minivit cost`), for all; the share is of the rate of one large product in that
precision (for half: of float16), measured first, as are the rate of a copy and the time from launch
to launch. Memory is that of all arrays when they are the most, as the allocators count it.

`--layers` times each layer that has a kernel of its own beside its plain twin (of which only its
own lines are plain: the layers, products and sums that it calls keep their kernels). `--graph`
tries to capture a step as a CUDA graph, with CuPy's cuBLAS and with one called directly, and times
its replay: a step whose batch and rate stay the same. `--rounds 0` leaves the contest out.
Training itself is timed by the command line:

    python -m minivit train --data fashion-mnist
    python -m minivit train --data fashion-mnist --device gpu --precision tf32
"""

import argparse
import csv
import math
import statistics
import subprocess
import sys
import time
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

from contest import quartiles  # stands beside this file
from gpu_contest import (
    COMPILED,
    CONTESTANTS,
    MODELS,
    OURS,
    PHASES,
    TOLERANCE,
    agreeing,
    contest,
    dismiss,
    gather,
    problem,
)
from gpu_graph import try_graphs
from gpu_kernels import (
    Ceilings,
    ceilings,
    layers,
    layers_head,
    layers_line,
    told,
)
from gpu_peers import dotted

from minivit import cost
from minivit.devices import NoGPUError, device_module


class Row(NamedTuple):
    """A line of the table. The ratios are minivit's time over the contestant's."""

    model: str
    batch: int
    phase: str
    precision: str
    contestant: str
    version: str
    median_ms: float
    ratio_median: float
    ratio_low: float
    ratio_high: float
    images_per_s: float
    tflops: float
    share_of_rate: float
    peak_mb: float
    rounds: int
    device: str
    driver: str
    cuda: str


def rows(
    which: tuple[str, str, str],
    found: dict[str, tuple[list[float], float]],
    versions: dict[str, tuple[str, str]],
    limits: Ceilings,
    machine: tuple[str, str],
) -> list[Row]:
    """The table of one contest; which: model, phase, precision."""
    model, phase, precision = which
    config, batch = MODELS[model]
    ledger = cost.totals(cost.rows(config, batch))
    work = ledger.forward + (0 if phase == "forward" else ledger.backward)
    lines = []
    for name, (times, peak) in found.items():
        version, cuda = versions[name]
        median = statistics.median(times)
        ours = found[OURS][0] if OURS in found else [math.nan]
        low, ratio, high = quartiles(ours, times)
        lines.append(
            Row(
                model=model,
                batch=batch,
                phase=phase,
                precision=precision,
                contestant=name,
                version=version,
                median_ms=median * 1e3,
                ratio_median=ratio,
                ratio_low=low,
                ratio_high=high,
                images_per_s=batch / median,
                tflops=work / median / 1e12,
                share_of_rate=work / median / limits.of(precision),
                peak_mb=peak,
                rounds=len(times),
                device=machine[0],
                driver=machine[1],
                cuda=cuda,
            )
        )
    return lines


def table(found: list[Row]) -> str:
    """The rows of one contest."""
    first = found[0]
    title = f"{first.model}, batch {first.batch}, {first.phase}, {first.precision}"
    lines = [f"{title:38} median   minivit's time over it   images/s   TFLOP/s       peak memory"]
    for r in found:
        ratios = f"{r.ratio_median:.2f} ({r.ratio_low:.2f} to {r.ratio_high:.2f})"
        rate = f"{r.tflops:.1f} ({r.share_of_rate:.0%})"
        lines.append(
            f"  {r.contestant:30} {r.median_ms:8.2f} ms {ratios:>21} {r.images_per_s:10.0f} "
            f"{rate:>12} {r.peak_mb:9.0f} MB"
        )
    return "\n".join(lines)


def write_csv(path: Path, found: list[Any]) -> None:
    """One line a row; what is not known is left empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(found[0]._fields)
        for r in found:
            numbers = (f"{x:.5g}" if isinstance(x, float) else x for x in r)
            writer.writerow("" if x == "nan" else x for x in numbers)


def run_contest(args: argparse.Namespace, limits: Ceilings, machine: tuple[str, str]) -> None:
    names = list(CONTESTANTS)
    if args.no_compile:
        names.remove(COMPILED)
    if not util.find_spec("torch"):
        names = [OURS]
        print("PyTorch is not installed, so not here")
    started = time.monotonic()
    pipes, versions = gather(args.model, args.precision, names)
    print(f"all ready after {time.monotonic() - started:.0f} s", flush=True)
    found: list[Row] = []
    for model in args.model:
        print(f"\n{model}")
        for precision in args.precision:
            its_own = agreeing(pipes[model], precision)
            for phase in args.phase:
                times = contest(its_own, phase, precision, args.rounds)
                lines = rows((model, phase, precision), times, versions, limits, machine)
                if not lines:
                    continue
                found += lines
                print(f"\n{table(lines)}\n", flush=True)
                if args.csv:
                    write_csv(args.csv, found)
        dismiss(pipes[model])


# --- besides ----------------------------------------------------------------------------------


def run_layers(xp: Any, path: Path, copy: float, machine: tuple[str, str]) -> None:
    names = (*machine, dotted(xp.cuda.runtime.runtimeGetVersion()), xp.__version__)
    models = {name: MODELS[name] for name in ("ViT-Ti/4", "ViT-B/16")}
    print(layers_head())
    found = []
    for row in layers(xp, models, names):
        found.append(row)
        print(layers_line(row, copy), flush=True)
        if path.name:
            write_csv(path, found)


def driver() -> str:
    """The version of NVIDIA's driver, if its tool tells."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.split("\n")[0].strip()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, choices in {"model": MODELS, "phase": PHASES, "precision": TOLERANCE}.items():
        parser.add_argument(f"--{name}", choices=[*choices], nargs="+", default=[*choices])
    parser.add_argument("--rounds", type=int, default=7, help="0: no contest")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there as well")
    parser.add_argument(
        "--layers", type=Path, nargs="?", const=Path(), metavar="FILE",
        help="time the layers with kernels of their own, too, and write their table there",
    )  # fmt: skip
    parser.add_argument("--graph", action="store_true", help="try to capture a step")
    args = parser.parse_args()
    if args.rounds < 0:
        parser.error(f"--rounds {args.rounds}: at least 0 is needed")
    for path in filter(None, (args.csv, args.layers)):
        if not path.parent.is_dir():
            parser.error(f"{path}: there is no such folder")
    return args


def main() -> None:
    args = arguments()
    try:
        xp = device_module("gpu")
    except NoGPUError as reason:
        sys.exit(f"no GPU: {reason}")
    device = xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    machine = device, driver()
    print(f"{device}, driver {machine[1]}, cupy {xp.__version__}, {args.rounds} rounds", flush=True)
    limits = ceilings(xp)
    print(told(limits), flush=True)
    xp.get_default_memory_pool().free_all_blocks()
    if args.rounds:
        run_contest(args, limits, machine)
    if args.layers is not None:
        run_layers(xp, args.layers, limits.copy, machine)
    if args.graph:
        try_graphs(args.model[0], problem(args.model[0]))


if __name__ == "__main__":
    main()
