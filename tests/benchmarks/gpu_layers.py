"""Single layers on a GPU as contenders: CUDA kernels, readable versions, and a lower bound."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from contenders import on_gpu  # next to this file
from harness import Case, Contender, Task

from minivit import ViTConfig, layers
from minivit.arrays import sum_leading
from minivit.devices import device_module
from minivit.models import parameter_count
from minivit.optim import adamw

COPIED = 1 << 30  # bytes
CONTENDERS = {
    "fused": Contender("minivit", "gpu_layers.Layer", {"fused": True}),
    "plain": Contender("minivit", "gpu_layers.Layer", {"fused": False}),
    "lower bound: copying the bytes": Contender("minivit", "gpu_layers.Copy", work=2 * COPIED),
}
BOTH = {"forward": 2, "backward": 3}  # arrays that are read or written
LAYERS = dict.fromkeys(("softmax", "layer_norm", "gelu tanh", "gelu erf", "mlp"), BOTH)
LAYERS |= {"cross_entropy": {"forward": 1, "backward": 2}}
LAYERS |= {"sum_leading": {"forward": 1}, "adamw": {"forward": 7}}


def shape_of(layer: str, c: ViTConfig, B: int) -> tuple[int, int]:
    """Return the rows of a layer's arrays, and their width."""
    n = B * c.tokens
    shapes = {"softmax": (n * c.heads, c.tokens), "layer_norm": (n, c.width), "mlp": (n, c.width)}
    shapes |= {"cross_entropy": (B, c.classes), "adamw": (1, parameter_count(c))}
    return shapes.get(layer, (n, c.mlp_width))


def make_cases(config: ViTConfig, batch_size: int) -> Iterator[Case]:
    for layer, passes in LAYERS.items():
        rows, width = shape_of(layer, config, batch_size)
        for name, arrays in passes.items():
            columns = {"layer": layer, "pass": name, "rows": rows, "width": width}
            arguments = layer, name == "backward", config, batch_size
            options = {"work": 4 * rows * width * arrays, "pause": 0, "group": "layers"}
            yield Case(columns, CONTENDERS, arguments, tolerance=1e-4, **options)


class Layer:
    """The forward or backward pass of one layer. Products and sums use kernels in both versions."""

    def __init__(self, fused: bool) -> None:
        self.fused = fused

    def __call__(self, layer: str, backward: bool, c: ViTConfig, batch_size: int) -> Task:
        xp, rng = device_module("gpu"), np.random.default_rng(0)

        def draw(*shape: int) -> Any:
            return xp.asarray(0.1 * rng.standard_normal(shape, dtype=np.float32))

        (rows, width), M = shape_of(layer, c, batch_size), c.mlp_width
        name, _, kind = layer.partition(" ")
        function = {"sum_leading": sum_leading, "adamw": adamw}.get(name) or getattr(layers, name)
        keywords: dict[str, Any] = {"kind": kind} if kind else {}
        if layer == "layer_norm":
            keywords = {"scale": draw(width), "bias": draw(width)}
        elif layer == "mlp":
            keywords["hidden"] = {"kernel": draw(width, M), "bias": draw(M)}
            keywords["out"] = {"kernel": draw(M, width), "bias": draw(width)}
        elif layer == "cross_entropy":
            keywords = {"labels": xp.asarray(rng.integers(0, width, rows))}
        elif layer == "adamw":
            keywords = {"g": draw(width), "m": draw(width), "v": draw(width) ** 2}
            keywords |= {"decayed": width, "step_size": 1e-4, "decay_factor": 0.9999}
            keywords |= {"beta1": 0.9, "beta2": 0.999, "v_scale": 1.0, "eps": 1e-8}
        x = draw(width) if layer == "adamw" else draw(rows, width)
        call = partial(function if self.fused else function.dispatch(object), x, **keywords)
        if backward:
            y, pullback = call()
            call = partial(pullback, draw(*y.shape) if y.shape else 1)

        def results() -> dict[str, np.ndarray]:
            value = call()
            value = value[0] if isinstance(value, tuple) else value
            return {"result": (x if layer == "adamw" else value).get()}

        return on_gpu(Task(call, results))


class Copy:
    """The lower bound: a copy in the memory of the GPU."""

    def __call__(self, *_: Any) -> Task:
        return on_gpu(Task(device_module("gpu").ones(COPIED // 4, dtype="float32").copy))
