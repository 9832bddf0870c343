"""The contenders minivit and lower bound, on a CPU or a GPU, and the inputs of all contenders."""

from functools import partial
from typing import Any

import numpy as np
from harness import Task  # next to this file

import minivit
from minivit.arrays import Array, matmul, to_host
from minivit.devices import device_module, set_matmul_precision
from minivit.models import infer
from minivit.training import AdamW, StepOptions, batch_gradients
from minivit.tree import flatten, map_tree, pack

RATE, DECAY = 1e-3, 0.1  # of AdamW
SIDE = {"cpu": 2048, "gpu": 8192}  # of the matrices of the lower bound
BOUND_FLOP = {device: 2 * side**3 for device, side in SIDE.items()}


def make_problem(
    config: minivit.ViTConfig, batch_size: int
) -> tuple[minivit.ViT, np.ndarray, np.ndarray]:
    """Return a model, images and labels, the same in every process."""
    rng = np.random.default_rng(0)
    model = minivit.ViT.create(config)
    model.params = map_tree(  # with a zero head, the other gradients would be zero
        lambda p: p + 0.02 * rng.standard_normal(p.shape, dtype=np.float32), model.params
    )
    shape = (batch_size, *config.image_size, config.channels)
    images = rng.standard_normal(shape, dtype=np.float32)
    return model, images, rng.integers(0, config.classes, batch_size)


def make_gradients(model: minivit.ViT) -> dict[str, np.ndarray]:
    """Return random gradients for an update, the same in every process."""
    rng, params = np.random.default_rng(1), flatten(model.params)
    return {name: rng.standard_normal(p.shape, dtype=np.float32) for name, p in params.items()}


class Minivit:
    """minivit with float32 arrays. In "half", matrix products read them as bfloat16."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def __call__(
        self, phase: str, config: minivit.ViTConfig, batch_size: int, precision: str = "float32"
    ) -> Task:
        """Create the task of a phase: forward, gradients, step, or update (only AdamW)."""
        if self.device == "gpu":
            set_matmul_precision("bfloat16" if precision == "half" else precision)
        model, *batch = make_problem(config, batch_size)
        task = self.make_task(phase, model.to(self.device), *batch)
        return on_gpu(task) if self.device == "gpu" else task

    def make_task(self, phase: str, model: minivit.ViT, images: Array, labels: Array) -> Task:
        images, labels = (device_module(self.device).asarray(a) for a in (images, labels))
        gradients = partial(batch_gradients, model, images, labels, StepOptions())

        def forward() -> Array:  # the logits stay on the device
            if self.device == "cpu":
                return model(images)
            return infer(images, model.params, model.config)

        def results() -> dict[str, np.ndarray]:
            loss, _, (_, tree, _) = gradients()
            named = flatten(tree) | {"loss": loss}
            return {name: np.asarray(to_host(array)) for name, array in named.items()}

        if phase == "forward":
            return Task(forward, lambda: {"logits": to_host(forward())})
        if phase == "gradients":
            return Task(gradients, results)
        optimiser = AdamW(pack(model.params), weight_decay=DECAY)
        if phase == "update":
            gradient = pack(minivit.unflatten(make_gradients(model))).vector
            return Task(partial(optimiser.update, gradient, RATE), partial(flatten, model.params))
        first = results()  # before the weights change
        return Task(lambda: optimiser.update(gradients()[1].vector, RATE), lambda: first)


class MatrixProduct:
    """The lower bound: the product of two large matrices, which has the highest rate."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def __call__(self, *arguments: Any) -> Task:
        xp, shape, dtype = device_module(self.device), 2 * (SIDE[self.device],), "float32"
        if self.device == "gpu":
            precision = arguments[-1]
            dtype = "float16" if precision == "half" else dtype
            set_matmul_precision("float32" if precision == "half" else precision)
        a, b = np.random.default_rng(0).standard_normal((2, *shape), dtype="float32").astype(dtype)
        a, b = xp.asarray(a), xp.asarray(b)
        task = Task(partial(matmul, a, b, xp.empty_like(a)))
        return on_gpu(task) if self.device == "gpu" else task


def on_gpu(task: Task) -> Task:
    """Add functions that wait for the GPU and that measure the memory of its arrays."""
    xp = device_module("gpu")

    def peak() -> float:
        pool = xp.get_default_memory_pool()
        pool.free_all_blocks()
        task.call()
        return pool.total_bytes() / 2**20

    return task._replace(wait=xp.cuda.get_current_stream().synchronize, peak=peak)
