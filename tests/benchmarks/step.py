"""A training step: minivit against PyTorch and JAX on the same cores, and against the floor.

    python tests/benchmarks/step.py --csv step.csv

The peers are those of `pip install "minivit[peers]"` that are there: PyTorch eager, with its fused
attention and with Equations 6 and 7 written out, `torch.compile`, and JAX under jit. All hold the
same weights, see the same images, have the same GELU and as many threads as there are cores; their
losses and all their gradients are compared before anything is timed. The model "update" is not a
step: it is one AdamW update of the parameters of ViT-Ti/4.

Each runs in a process of its own. Rounds are interleaved, and a ratio is minivit's time over the
other's of the same round: the median, and the quartiles. Memory is the peak of the process, from
its start, as Linux reports it. The floor is the time that the step's matrix products alone would
take at the rate at which NumPy multiplies two large matrices on all cores in that round.
"""

import argparse
import dataclasses
import math
import statistics
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata, util
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from contest import (  # stands beside this file
    dismiss,
    hold_threads,
    interleaved,
    memory,
    processor,
    quartiles,
    serve,
    serve_floor,
    start,
    warn_if_busy,
)
from report import FLOOR, Row, table, write_csv

import minivit
from minivit import cost
from minivit.parallel import cpu_count
from minivit.training import AdamW, loss_and_gradients
from minivit.tree import is_kernel, map_tree, pack

#        name: config, batch
MODELS = {
    "Ti/4": (minivit.ViTConfig.named("ViT-Ti/4", image_size=32, classes=10), 64),
    "small": (
        minivit.ViTConfig(
            image_size=8, patch_size=2, channels=1, classes=10,
            width=64, depth=4, heads=4, mlp_width=256,
        ),
        128,
    ),
}  # fmt: skip
UPDATE, RATE, DECAY = "update", 0.01, 0.1
FIRST = 3  # calls before the clock: PyTorch compiles in the first, AdamW's moments need a few
TOLERANCE = 1e-5  # of the norm of an array, or of 1e-3 if that is more


def random_model(config: minivit.ViTConfig, rng: np.random.Generator) -> minivit.ViT:
    model = minivit.ViT.create(config)
    model.params = map_tree(  # a zero head would leave the gradients zero
        lambda a: a + 0.02 * rng.standard_normal(a.shape, dtype=np.float32), model.params
    )
    return model


def step_problem(name: str, gelu: str) -> tuple[minivit.ViT, np.ndarray, np.ndarray]:
    """The same model, images and labels in every process."""
    config, batch = MODELS[name]
    rng = np.random.default_rng(0)
    model = random_model(dataclasses.replace(config, gelu=gelu), rng)
    images = rng.standard_normal((batch, *config.image_size, config.channels), dtype=np.float32)
    return model, images, rng.integers(0, config.classes, batch)


def update_problem() -> tuple[minivit.ViT, dict[str, np.ndarray]]:
    """The same model and gradients in every process."""
    rng = np.random.default_rng(0)
    model = random_model(MODELS["Ti/4"][0], rng)
    draw = partial(rng.standard_normal, dtype=np.float32)
    gradients = {name: draw(a.shape) for name, a in minivit.flatten(model.params).items()}
    return model, gradients


# --- the contestants: what is timed, and a function that turns its result into named arrays ---


def our_step(*problem: object) -> tuple[Callable, Callable]:
    def outcome(result: tuple) -> dict[str, np.ndarray]:
        return minivit.flatten(result[1]) | {"loss": np.float32(result[0])}

    return partial(loss_and_gradients, *problem), outcome


def torch_step(
    *problem: object, fused: bool = True, compiled: bool = False
) -> tuple[Callable, Callable]:
    import torch_vit  # here, so that no other process holds PyTorch

    return torch_vit.training_step(*problem, fused, compiled)


def jax_step(*problem: object) -> tuple[Callable, Callable]:
    import jax_vit

    return jax_vit.training_step(*problem)


def our_update(model: minivit.ViT, gradients: dict[str, np.ndarray]) -> tuple[Callable, Callable]:
    optimiser = AdamW(model.params, weight_decay=DECAY)
    gradient, _ = pack(minivit.unflatten(gradients), first=is_kernel)
    return partial(optimiser.update, gradient, RATE), lambda _: minivit.flatten(model.params)


def torch_update(*problem: object, **how: bool) -> tuple[Callable, Callable]:
    import torch_vit

    return torch_vit.adamw_update(*problem, RATE, DECAY, **how)


#   name: package, what makes it
STEPS = {
    "minivit": ("minivit", our_step),
    "PyTorch, fused attention": ("torch", torch_step),
    "PyTorch, Equations 6 and 7": ("torch", partial(torch_step, fused=False)),
    "torch.compile": ("torch", partial(torch_step, compiled=True)),
    "JAX jit": ("jax", jax_step),
}
UPDATES = {
    "minivit": ("minivit", our_update),
    "PyTorch AdamW, default": ("torch", torch_update),
    "PyTorch AdamW, foreach": ("torch", partial(torch_update, foreach=True)),
    "PyTorch AdamW, fused": ("torch", partial(torch_update, fused=True)),
}


def contestants(model: str) -> dict[str, tuple[str, Callable]]:
    every = UPDATES if model == UPDATE else STEPS
    return {name: c for name, c in every.items() if util.find_spec(c[0])}


# --- the contest ------------------------------------------------------------------------------


def serve_contestant(pipe: Connection, name: str, model: str, gelu: str) -> None:
    _, make = contestants(model)[name]
    call, outcome = make(*(update_problem() if model == UPDATE else step_problem(model, gelu)))
    for _ in range(FIRST - 1):
        call()
    result = call()
    arrays = outcome(result)
    pipe.send(list(arrays))
    for array in arrays.values():  # one by one: to send all at once would need memory for all
        pipe.send(array)
    del result, arrays
    serve(pipe, call)
    pipe.send(memory("VmHWM"))


def first_results(pipe: Connection) -> dict[str, np.ndarray]:
    return {name: pipe.recv() for name in pipe.recv()}


def disagreement(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> tuple[float, str]:
    """The largest error of a loss, gradient or parameter, and which it is."""
    if set(ours) != set(theirs):
        return math.inf, " ".join(set(ours) ^ set(theirs))
    errors = {
        name: np.linalg.norm(a - ours[name]) / max(np.linalg.norm(a), 1e-3)
        for name, a in theirs.items()
    }
    return max((float(np.nan_to_num(error, nan=np.inf)), name) for name, error in errors.items())


def gather(model: str, gelu: str) -> dict[str, Connection]:
    """Processes that have computed the same as minivit's. Whose does not run is named and left."""
    pipes, ours = {}, {}
    for name in contestants(model):
        pipe = start(serve_contestant, name, model, gelu)
        try:
            theirs = first_results(pipe)
        except EOFError:
            if name == "minivit":
                sys.exit("minivit itself has failed, see above")
            print(f"{name} does not run here, see above", flush=True)
            continue
        pipes[name] = pipe
        ours = ours or theirs
        error, where = disagreement(ours, theirs)
        if error > TOLERANCE:
            dismiss(pipes)
            sys.exit(f"{name} does not compute the same: {where} differs by {error:.1e}")
        if theirs is not ours:
            print(f"{name} agrees with minivit, {where} by {error:.1e}", flush=True)
    return pipes


def contest(model: str, gelu: str, rounds: int) -> list[Row]:
    pipes = gather(model, gelu)
    if model != UPDATE:
        pipes[FLOOR] = start(serve_floor)
    times = interleaved(pipes, rounds)
    dismiss(pipes)
    peaks = {name: pipe.recv() for name, pipe in pipes.items() if name != FLOOR}
    if model != UPDATE:
        ledger = cost.totals(cost.rows(*MODELS[model]))
        times[FLOOR] = [t * (ledger.forward + ledger.backward) for t in times[FLOOR]]
    packages = {name: package for name, (package, _) in contestants(model).items()}
    return [
        row(model, gelu, name, packages.get(name, "numpy"), times, peaks.get(name, math.nan))
        for name in times
    ]


def row(
    model: str, gelu: str, name: str, package: str, times: dict[str, list[float]], peak: float
) -> Row:
    low, ratio, high = quartiles(times["minivit"], times[name])
    floor = times.get(FLOOR, [math.nan] * len(times[name]))
    return Row(
        model=model,
        gelu=gelu,
        contestant=name,
        version=f"{package} {metadata.version(package)}",
        median_ms=statistics.median(times[name]) * 1e3,
        ratio_median=ratio,
        ratio_low=low,
        ratio_high=high,
        peak_mb=peak,
        share_of_floor=quartiles(floor, times[name])[1],
        threads=cpu_count(),
        rounds=len(times[name]),
        machine=processor(),
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", choices=[*MODELS, UPDATE], nargs="+", default=[*MODELS, UPDATE])
    parser.add_argument("--gelu", choices=["tanh", "erf"], nargs="+", default=["tanh", "erf"])
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there as well")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: at least 1 is needed")
    if args.csv and not args.csv.parent.is_dir():
        parser.error(f"--csv {args.csv}: there is no such folder")
    return args


def main() -> None:
    args = arguments()
    hold_threads()
    found: list[Row] = []
    print(f"{cpu_count()} threads each, {processor()}, {args.rounds} rounds")
    warn_if_busy()
    missing = [package for package in ("torch", "jax") if not util.find_spec(package)]
    if missing:
        print(f"not installed, so not here: {', '.join(missing)} (they are in minivit[peers])")
    for model in args.model:
        for gelu in [""] if model == UPDATE else args.gelu:
            lines = contest(model, gelu, args.rounds)
            found += lines
            print(f"\n{table(lines)}\n", flush=True)
            if args.csv:
                write_csv(args.csv, found)


if __name__ == "__main__":
    main()
