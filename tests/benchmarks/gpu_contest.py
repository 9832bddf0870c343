"""The contest on the GPU: who, on which models; their processes; agreement; interleaved rounds."""

import contextlib
import gc
import math
import random
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from contest import start  # stands beside this file
from gpu_kernels import timer
from gpu_peers import Minivit, PyTorch
from step import random_model

import minivit
from minivit.devices import first_line

#             config, batch
MODELS = {
    "ViT-Ti/4": (minivit.ViTConfig.named("ViT-Ti/4", image_size=32, classes=10), 512),
    "ViT-S/16": (minivit.ViTConfig.named("ViT-S/16"), 64),
    "ViT-B/16": (minivit.ViTConfig.named("ViT-B/16"), 64),
}
PHASES = ("forward", "gradients", "step")
TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "half": 5e-2}  # of the norm of an array
FLOOR = 1e-2  # of the norm of all gradients: what an array's norm counts at least
FIRST = 5  # calls before the clock
BURST = 0.3  # seconds
COMPILING, PATIENCE = 180, 90  # seconds until a contestant is given up


class Contestant(NamedTuple):
    """What makes it, and the precisions and phases it takes part in."""

    make: Callable[..., Any]
    precisions: tuple[str, ...] = tuple(TOLERANCE)
    phases: tuple[str, ...] = PHASES


OURS, COMPILED = "minivit", "torch.compile"
CONTESTANTS = {
    OURS: Contestant(Minivit),
    "PyTorch eager": Contestant(PyTorch),
    "PyTorch eager, fused AdamW": Contestant(partial(PyTorch, fused=True), phases=("step",)),
    COMPILED: Contestant(
        partial(PyTorch, compiled=True, fused=True), ("tf32", "half"), ("gradients", "step")
    ),
}


# --- a contestant, in its process -------------------------------------------------------------


def problem(model: str) -> tuple[minivit.ViT, np.ndarray, np.ndarray]:
    """The same model, images and labels in every process."""
    config, batch = MODELS[model]
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *config.image_size, config.channels), dtype=np.float32)
    return random_model(config, rng), images, rng.integers(0, config.classes, batch)


class Server:
    """What is asked of a contestant: its methods, by their names."""

    def __init__(self, contestant: str, model: str) -> None:
        self.which, self.found = (contestant, model), {}

    def ready(self) -> tuple[str, str]:
        """Version and CUDA."""
        contestant, model = self.which
        self.peer = CONTESTANTS[contestant].make(*problem(model))
        return self.peer.version, self.peer.cuda

    def compute(self, precision: str) -> None:
        """The loss and the gradients, on weights that nothing has moved yet; and all compiling."""
        self.found[precision] = self.peer.outcome(precision)
        self.rest()

    def names(self, precision: str) -> list[str]:
        return list(self.found[precision])

    def array(self, precision: str, name: str) -> np.ndarray:
        """The loss or a gradient. To send all at once would need memory for all."""
        return self.found[precision].pop(name)

    def prepare(self, phase: str, precision: str) -> float:
        """Make what will be timed; megabytes at its peak."""
        call = self.peer.call(phase, precision)
        for _ in range(FIRST):
            call()
        peak = self.peer.peak(call)
        self.burst = timer(call, self.peer.wait, BURST)
        return peak

    def rest(self) -> None:
        """Leave the memory to the others."""
        self.burst = None
        gc.collect()
        self.peer.free()


def serve(pipe: Connection, contestant: str, model: str) -> None:
    """Answer each request with (True, what it gives) or with (False, what went wrong)."""
    server = Server(contestant, model)
    with contextlib.suppress(EOFError, OSError):  # whoever asked has given up
        while (request := pipe.recv()) != "stop":
            method, *args = request
            try:
                answer = True, getattr(server, method)(*args)
            except Exception as error:
                traceback.print_exc()
                answer = False, f"{type(error).__name__}: {first_line(error)}"
            pipe.send(answer)


# --- the contest ------------------------------------------------------------------------------


class Failed(RuntimeError):
    """A contestant has not done what it was asked. The message says why."""


def answer_of(pipe: Connection, patience: float) -> Any:
    """Raises Failed if there is none in so many seconds, or not the one that was hoped for."""
    try:
        if not pipe.poll(patience):
            pipe.close()  # an answer that comes later must not be taken for another
            raise Failed("no answer, and given up")
        done, value = pipe.recv()
    except (EOFError, OSError):
        raise Failed("its process has ended") from None
    if not done:
        raise Failed(value)
    return value


def ask(pipe: Connection, *request: object) -> Any:
    """What the contestant's `Server` gives for (method, arguments...). Raises Failed."""
    try:
        pipe.send(request)
    except OSError:
        raise Failed("its process has ended") from None
    return answer_of(pipe, PATIENCE)


def those_who_can(pipes: dict[str, Connection], *request: object) -> dict[str, Any]:
    """What each answers to one request. Who fails is named, and left out."""
    answers = {}
    for name, pipe in pipes.items():
        try:
            answers[name] = ask(pipe, *request)
        except Failed as reason:
            print(f"{name} leaves: {' '.join(map(str, request))}: {reason}", flush=True)
    return answers


def gather(
    models: list[str], precisions: list[str], names: list[str]
) -> tuple[dict[str, dict[str, Connection]], dict[str, tuple[str, str]]]:
    """For each model the processes that are ready, by contestant; and versions."""
    pipes: dict[str, dict[str, Connection]] = {model: {} for model in models}
    versions = {}
    own = {n: [p for p in precisions if p in CONTESTANTS[n].precisions] for n in names}
    for model in models:
        for name in filter(own.get, names):
            pipes[model][name] = pipe = start(serve, name, model)
            for request in [("ready",), *(("compute", precision) for precision in own[name])]:
                pipe.send(request)
    deadline = time.monotonic() + COMPILING
    for model in models:
        for name, pipe in list(pipes[model].items()):
            try:
                versions[name] = answer_of(pipe, max(1, deadline - time.monotonic()))
                for precision in own[name]:
                    told_if_failed(f"{model}, {precision}: {name}", pipe, deadline)
            except Failed as reason:
                print(f"{name} does not run {model} here: {reason}", flush=True)
                del pipes[model][name]
    return pipes, versions


def told_if_failed(what: str, pipe: Connection, deadline: float) -> None:
    """Wait for an answer, and say so if it was no success."""
    try:
        answer_of(pipe, max(1, deadline - time.monotonic()))
    except Failed as reason:
        print(f"{what} fails: {reason}", flush=True)


def disagreement(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> tuple[float, str]:
    """The largest error of the loss or of a gradient, by its norm, and which it is.

    The norm of a gradient that hardly matters, FLOOR of all or less, is none to measure by.
    """
    if set(ours) != set(theirs):
        return math.inf, " ".join(sorted(set(ours) ^ set(theirs)))
    norms = {name: float(np.linalg.norm(a)) for name, a in ours.items()}
    least = FLOOR * math.hypot(*(norm for name, norm in norms.items() if name != "loss"))
    errors = {}
    for name, a in ours.items():
        size = norms[name] if name == "loss" else max(norms[name], least)
        error = np.linalg.norm(theirs[name] - a) / size
        errors[name] = float(np.nan_to_num(error, nan=np.inf))
    worst = max(errors, key=errors.__getitem__)
    return errors[worst], worst


def results(pipe: Connection, precision: str) -> dict[str, np.ndarray]:
    return {name: ask(pipe, "array", precision, name) for name in ask(pipe, "names", precision)}


def agreeing(pipes: dict[str, Connection], precision: str) -> dict[str, Connection]:
    """Minivit, and those whose loss and gradients are its own. Without it, all."""
    pipes = {n: pipe for n, pipe in pipes.items() if precision in CONTESTANTS[n].precisions}
    us = pipes.pop(OURS, None)
    try:
        ours = us and results(us, precision)
    except Failed as reason:
        print(f"{precision}: {OURS} fails: {reason}", flush=True)
        ours = None
    if ours is None:
        print(f"{precision}: no {OURS}, so nobody is compared", flush=True)
        return pipes
    found = {OURS: us}
    for name, pipe in pipes.items():
        try:
            error, where = disagreement(ours, results(pipe, precision))
        except Failed as reason:
            print(f"{precision}: {name} fails: {reason}", flush=True)
            continue
        agrees = error <= TOLERANCE[precision]
        does = "agrees with" if agrees else "leaves, as it does not agree with"
        print(f"{precision}: {name} {does} minivit, {where} differs by {error:.1e}", flush=True)
        if agrees:
            found[name] = pipe
    return found


def interleaved(pipes: dict[str, Connection], rounds: int) -> dict[str, list[float]]:
    """Seconds a call of each, round by round, in another order every time. Who fails is left."""
    times: dict[str, list[float]] = {name: [] for name in pipes}
    generator = random.Random(0)
    for _ in range(rounds):
        order = {name: pipes[name] for name in generator.sample(list(times), len(times))}
        answers = those_who_can(order, "burst")
        times = {name: [*times[name], answers[name]] for name in times if name in answers}
    return times


def contest(
    pipes: dict[str, Connection], phase: str, precision: str, rounds: int
) -> dict[str, tuple[list[float], float]]:
    """Of each: seconds by round, and megabytes."""
    pipes = {name: pipe for name, pipe in pipes.items() if phase in CONTESTANTS[name].phases}
    peaks = those_who_can(pipes, "prepare", phase, precision)
    times = interleaved({name: pipes[name] for name in peaks}, rounds)
    for pipe in pipes.values():
        with contextlib.suppress(Failed):  # whoever has failed has been told of
            ask(pipe, "rest")
    return {name: (times[name], peaks[name]) for name in times}


def dismiss(pipes: dict[str, Connection]) -> None:
    """Let these end; others, who wait for their turn, stay."""
    for pipe in pipes.values():
        with contextlib.suppress(OSError):
            pipe.send("stop")
