"""The ledger measured: minivit's own layers, run on arrays of the shapes they have in the model."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..api import ViT
from ..arrays import Array, Pullback, matmul
from ..devices import synchronise
from ..layers import (
    class_pool,
    dropout,
    gelu,
    hidden_layer,
    layer_norm,
    linear,
    mean_pool,
    patch_embedding,
    prepend_class_token,
    softmax,
)
from ..layers.dropout import drop_path
from ..layers.positions import relative_positions
from ..models import ViTConfig, bottleneck, vit
from ..models.resnet import resnet_root
from ..models.vit import positions
from ..parallel import configure_malloc, single_threaded_blas
from ..training import loss_and_gradients
from .watch import bytes_alive, peak

ROUNDS = 5

Params = dict[str, Any]


class Measured(NamedTuple):
    """One layer: seconds, the median of some rounds, and the bytes that its pullback keeps."""

    layer: str
    forward: float
    backward: float
    kept: int


class Trial(NamedTuple):
    """A layer to be run: f(*inputs, *borrowed) of random arrays.

    What the pullback keeps of its inputs is counted; what is borrowed was counted elsewhere.
    """

    layer: str
    f: Callable[..., tuple[Array, Pullback]]
    inputs: tuple[tuple[int, ...], ...]
    borrowed: tuple[tuple[int, ...], ...] = ()


def measure(model: ViT, batch: int, rounds: int = ROUNDS) -> Iterator[Measured]:
    """Time each layer on the batch in one piece, and see what it keeps. In the ledger's order.

    BLAS has one thread, as in a shard of a step: with more, small products wait for each other.
    A model on a GPU is measured there.
    """
    configure_malloc()
    for trial in trials(model.config, model.params, batch):
        with single_threaded_blas():
            found = run(trial, rounds, model.dtype, model.xp)
        yield found


def drawer(xp: ModuleType, dtype: np.dtype) -> Callable[[tuple[int, ...]], Array]:
    """Normal numbers in an array of any shape, in this module's memory."""
    generator = np.random.default_rng(0)
    drawn = partial(generator.standard_normal, dtype="float64" if dtype == "float64" else "float32")
    return lambda shape: xp.asarray(drawn(shape).astype(dtype, copy=False))


def run(trial: Trial, rounds: int, dtype: np.dtype, xp: ModuleType = np) -> Measured:
    """Once to see what stays, and then several times with a clock."""
    draw = drawer(xp, dtype)
    borrowed = [draw(shape) for shape in trial.borrowed]
    with bytes_alive(xp) as alive:
        inputs = [draw(shape) for shape in trial.inputs]
        y, pullback = trial.f(*inputs, *borrowed)
        shape = y.shape
        del inputs, y
        kept = alive()
        del pullback
    inputs, dy = [draw(shape) for shape in trial.inputs], draw(shape)
    times = [clock(partial(trial.f, *inputs, *borrowed), dy) for _ in range(rounds)]
    return Measured(trial.layer, *map(median, zip(*times, strict=True)), kept)


def clock(forward: Callable[[], tuple[Array, Pullback]], dy: Array) -> tuple[float, float]:
    """The seconds of a forward and of its backward."""
    started = time.perf_counter()
    _, pullback = forward()
    synchronise(dy)
    between = time.perf_counter()
    pullback(dy)
    synchronise(dy)
    return between - started, time.perf_counter() - between


def kept_by_whole(model: ViT, batch: int) -> int:
    """The bytes that stay alive after a forward of the whole model, the batch in one piece."""
    shape = (batch, *model.config.image_size, model.config.channels)
    with bytes_alive(model.xp) as alive:
        images = drawer(model.xp, model.dtype)(shape)
        pullback = vit(images, model.params, model.config, np.random.default_rng(0))[1]
        del images
        kept = alive()
        del pullback
        return kept


def measure_step(
    model: ViT, batch: int, shards: int | None = None, threads: int | None = None
) -> tuple[float, int]:
    """Seconds of a training step, cut into shards, and the peak of its memory in bytes."""
    shape = (batch, *model.config.image_size, model.config.channels)
    images = drawer(model.xp, model.dtype)(shape)
    labels = np.random.default_rng(0).integers(model.config.classes, size=batch)
    seed = (0,) if model.config.dropout or model.config.drop_path else None
    step = partial(
        loss_and_gradients, model, images, labels, seed=seed, shards=shards, threads=threads
    )
    most = peak(model.xp, step)
    started = time.perf_counter()
    step()  # its loss is read: it is over
    return time.perf_counter() - started, most


def trials(config: ViTConfig, params: Params, batch: int) -> Iterator[Trial]:
    """A trial for each row of the ledger."""
    yield from stem_trials(config, params, batch)
    yield from embedding_trials(config, params, batch)
    yield from block_trials(config, params["blocks"][-1], batch)
    yield from head_trials(config, params, batch)


def stem_trials(config: ViTConfig, params: Params, B: int) -> Iterator[Trial]:
    """The hybrid's ResNet: its root, and of each stage the first unit and one of the others."""
    if config.stem is None:
        return
    (H, W), C = config.image_size, config.channels
    yield Trial("stem: root", lambda x: resnet_root(x, params["stem"]), ((B, H, W, C),))
    h, w, C = -(-H // 4), -(-W // 4), config.stem_width
    for stage, units in enumerate(params["stem"].get("stages", [])):
        stride, name = 2 if stage else 1, f"stem: stage {stage + 1}, unit"
        first = partial(bottleneck, params=units[0], stride=stride)
        yield Trial(f"{name} 1", first, ((B, h, w, C),))
        h, w, C = -(-h // stride), -(-w // stride), units[0]["conv3"]["kernel"].shape[-1]
        if len(units) > 1:
            name += f"s 2 to {len(units)}" if len(units) > 2 else " 2"
            yield Trial(name, partial(bottleneck, params=units[1]), ((B, h, w, C),))


def embedding_trials(config: ViTConfig, params: Params, B: int) -> Iterator[Trial]:
    """Equation 1."""
    c, patch = config, params["patch_embedding"]
    h, w = c.feature_map
    N, tokens = c.grid[0] * c.grid[1], (B, c.tokens, c.width)
    yield Trial(
        "patch embedding",
        lambda x: patch_embedding(x, patch["kernel"], patch.get("bias"), c.patch_size),
        ((B, h, w, c.feature_channels),),
    )
    if c.pooling == "class":
        prepend = partial(prepend_class_token, class_token=params["class_token"])
        yield Trial("class token", prepend, ((B, N, c.width),))
    if c.positions not in ("none", "relative"):
        yield Trial("positions", lambda z: positions(z, params.get("positions"), c), (tokens,))
    yield from dropout_trials(c, "dropout of the embedding", tokens)


def block_trials(config: ViTConfig, block: Params, B: int) -> Iterator[Trial]:
    """Equations 2, 3 and 5 to 8: all that is in a block."""
    c, attention, mlp = config, block["attention"], block["mlp"]
    T, D, k, M = c.tokens, c.width, c.heads, c.mlp_width
    tokens, packed, A = (B, T, D), (B, T, 3 * D), (B, k, T, T)
    yield Trial("norm1", partial(layer_norm, **block["norm1"], eps=c.norm_eps), (tokens,))
    yield Trial("attention: qkv", partial(linear, **attention["qkv"]), (tokens,))
    yield Trial("attention: scores", partial(scores, heads=k), (packed,))
    if c.positions == "relative":
        table, token = attention["relative"]["table"], c.pooling == "class"
        relative = partial(relative_positions, table=table, class_token=token)
        yield Trial("attention: relative", relative, (), ((B, k, T, D // k),))
    yield Trial("attention: softmax", lambda x: softmax(x, out=x), (A,))
    yield Trial("attention: A v", partial(mix, heads=k), (), (A, packed))
    yield Trial("attention: out", partial(linear, **attention["out"]), (tokens,))
    yield from dropout_trials(c, "attention: dropout", tokens)
    yield Trial("attention: residual", residual, (tokens,), (tokens,))
    yield Trial("norm2", partial(layer_norm, **block["norm2"], eps=c.norm_eps), (tokens,))
    yield Trial("MLP: hidden", partial(linear, **mlp["hidden"]), (tokens,))
    yield Trial("MLP: gelu", partial(gelu, kind=c.gelu), ((B, T, M),))
    yield from dropout_trials(c, "MLP: dropout of the hidden", (B, T, M))
    value_of_gelu, is_kept = (B, T, M), c.gelu == "erf" and not c.dropout
    hidden = ((), (value_of_gelu,)) if is_kept else ((value_of_gelu,), ())
    yield Trial("MLP: out", partial(linear, **mlp["out"]), *hidden)
    yield from dropout_trials(c, "MLP: dropout", tokens)
    yield Trial("MLP: residual", residual, (tokens,), (tokens,))
    if c.drop_path and c.depth > 1:
        generator = np.random.default_rng(0)
        paths = partial(drop_path, rate=c.drop_path, generator=generator)
        yield Trial("drop path", paths, (tokens,))


def head_trials(config: ViTConfig, params: Params, B: int) -> Iterator[Trial]:
    """Equation 4 and the classifier."""
    c, D = config, config.width
    token = c.pooling == "class"
    tokens = ((B, c.tokens, D),)
    yield Trial("final norm", partial(layer_norm, **params["norm"], eps=c.norm_eps), tokens)
    yield Trial("pool", class_pool if token else mean_pool, tokens)
    y = ((), ((B, D),)) if token else (((B, D),), ())  # a view, or an array of its own
    if c.hidden_head is not None:
        yield Trial("hidden head", partial(hidden_layer, **params["hidden"]), *y)
        y = (), ((B, c.hidden_head),)
    if c.classes is not None:
        yield Trial("head", partial(linear, **params["head"]), *y)


def dropout_trials(config: ViTConfig, layer: str, shape: tuple[int, ...]) -> Iterator[Trial]:
    """A trial if entries are dropped."""
    if config.dropout:
        generator = np.random.default_rng(0)
        yield Trial(layer, partial(dropout, rate=config.dropout, generator=generator), (shape,))


def split(packed: Array, heads: int) -> Array:
    """[q, k, v] of all heads, as `self_attention` sees them: views (3, B, k, T, Dh)."""
    B, T, three_D = packed.shape
    return packed.reshape(B, T, 3, heads, three_D // (3 * heads)).transpose(2, 0, 3, 1, 4)


def scores(packed: Array, heads: int) -> tuple[Array, Pullback]:
    """q kᵀ and its pullback, as in `attend`.  packed (B, T, 3 D)  ->  (B, k, T, T)"""
    q, k, _ = split(packed, heads)
    scaled = q * (1 / q.shape[-1] ** 0.5)

    def pullback(dscores: Array) -> tuple[Array, Array]:
        return matmul(dscores, k), matmul(dscores.swapaxes(-1, -2), scaled)

    return matmul(scaled, k.swapaxes(-1, -2)), pullback


def mix(A: Array, packed: Array, heads: int) -> tuple[Array, Pullback]:
    """A v and its pullback, as in `attend`.  A (B, k, T, T), packed  ->  (B, k, T, Dh)"""
    _, _, v = split(packed, heads)

    def pullback(dy: Array) -> tuple[Array, Array]:
        return matmul(dy, v.swapaxes(-1, -2)), matmul(A.swapaxes(-1, -2), dy)

    return matmul(A, v), pullback


def residual(z: Array, branch: Array) -> tuple[Array, Pullback]:
    """The sum of Equations 2 and 3. On the way back it is one sum too."""
    return z + branch, lambda dy: dy + branch
