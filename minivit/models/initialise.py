"""The name, shape and initial distribution of every parameter, as in the authors' code."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..tree import flatten, map_tree
from .config import ViTConfig

Initialiser = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]  # on the CPU


class ParameterSpec(NamedTuple):
    """The shape of a parameter and the function that draws its initial value."""

    shape: tuple[int, ...]
    draw: Initialiser


def initialise(config: ViTConfig, seed: int = 0, dtype: str = "float32") -> dict[str, Any]:
    """Draw the parameters of a new model. Raises ValueError unless the dtype is a float."""
    if np.dtype(dtype).kind != "f":
        raise ValueError(f"parameters must have a floating-point dtype, not {dtype}")
    rng, specs = np.random.default_rng(seed), parameter_specs(config)
    return map_tree(lambda p: p.draw(rng, p.shape).astype(dtype, copy=False), specs)


def parameter_count(config: ViTConfig) -> int:
    """Return the number of parameters without creating them."""
    return sum(math.prod(p.shape) for p in flatten(parameter_specs(config)).values())


def parameter_specs(config: ViTConfig) -> dict[str, Any]:
    """Return the tree of parameter specifications."""
    C, P, D, K = config.feature_channels, config.patch_size, config.width, config.classes
    tree: dict[str, Any] = {} if config.stem is None else {"stem": _stem(config)}
    patch_bias = zeros if config.patch_bias else None
    tree["patch_embedding"] = _linear(P * P * C, D, lecun_normal, patch_bias)
    if config.pooling == "class":
        tree["class_token"] = ParameterSpec((D,), zeros)
    if config.positions in ("1d", "2d"):
        tree["positions"] = _positions(config)
    tree["blocks"] = [_block(config) for _ in range(config.depth)]
    tree["norm"] = _norm(D)
    if config.hidden_head is not None:
        tree["hidden"] = _linear(D, config.hidden_head, lecun_normal)
    if K is not None:
        tree["head"] = _linear(config.hidden_head or D, K, zeros)
    return tree


def _stem(config: ViTConfig) -> dict[str, Any]:
    C, F = config.channels, config.stem_width
    stem: dict[str, Any] = {"conv": _convolution(7, C, F), "norm": _norm(F)}
    if config.stem:
        stem["stages"] = []
    channels = F
    for stage, units in enumerate(config.stem or ()):
        f = F * 2**stage  # each stage doubles the width
        first, others = _unit(channels, f, first=True), [_unit(4 * f, f) for _ in range(units - 1)]
        stem["stages"].append([first, *others])
        channels = 4 * f
    return stem


def _unit(C: int, f: int, first: bool = False) -> dict[str, Any]:
    unit = {
        "conv1": _convolution(1, C, f),
        "norm1": _norm(f),
        "conv2": _convolution(3, f, f),
        "norm2": _norm(f),
        "conv3": _convolution(1, f, 4 * f),
        "norm3": _norm(4 * f, zeros),  # with a zero scale, a new unit is the identity
    }
    if first:
        unit |= {"conv_shortcut": _convolution(1, C, 4 * f), "norm_shortcut": _norm(4 * f)}
    return unit


def _positions(config: ViTConfig) -> dict[str, ParameterSpec]:
    D, draw = config.width, normal(config.position_std)
    gh, gw = config.grid
    if config.positions == "1d":
        return {"table": ParameterSpec((config.tokens, D), draw)}
    shapes: dict[str, tuple[int, ...]] = {"rows": (gh, D // 2), "columns": (gw, D // 2)}
    if config.pooling == "class":
        shapes["class_token"] = (D,)
    return {name: ParameterSpec(shape, draw) for name, shape in shapes.items()}


def _block(config: ViTConfig) -> dict[str, Any]:
    D, M = config.width, config.mlp_width
    qkv = _linear(D, 3 * D, xavier_uniform_thirds, zeros if config.qkv_bias else None)
    attention: dict[str, Any] = {"qkv": qkv, "out": _linear(D, D, xavier_uniform)}
    if config.positions == "relative":
        N = math.prod(config.grid)
        R = 2 * N - 1 + 3 * (config.pooling == "class")
        attention["relative"] = {"table": ParameterSpec((R, D), normal(config.position_std))}
    hidden = _linear(D, M, xavier_uniform, normal(1e-6))
    mlp = {"hidden": hidden, "out": _linear(M, D, xavier_uniform, normal(1e-6))}
    return {"norm1": _norm(D), "attention": attention, "norm2": _norm(D), "mlp": mlp}


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, for biases, the class token and the head."""
    return np.zeros(shape, dtype=np.float32)


def ones(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Ones, for the scale of a norm."""
    return np.ones(shape, dtype=np.float32)


def normal(std: float) -> Initialiser:
    """Normal distribution, for position embeddings and the biases of the MLP."""
    return lambda rng, shape: rng.standard_normal(shape, dtype=np.float32) * np.float32(std)


def lecun_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal distribution, truncated at two standard deviations, with variance 1 / fan_in."""
    x = rng.standard_normal(shape, dtype=np.float32)
    while (outside := abs(x) > 2).any():
        x[outside] = rng.standard_normal(int(outside.sum()), dtype=np.float32)
    truncated_std = 0.87962566103423978  # of the standard normal distribution, truncated at 2
    fan_in = math.prod(shape[:-1])
    return x * np.float32(1 / math.sqrt(fan_in) / truncated_std)


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform distribution with variance 2 / (fan_in + fan_out)."""
    limit = math.sqrt(6 / sum(shape))
    return rng.random(shape, dtype=np.float32) * np.float32(2 * limit) - np.float32(limit)


def xavier_uniform_thirds(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Three square matrices, drawn separately and concatenated, for U_qkv."""
    D = shape[0]
    return np.concatenate([xavier_uniform(rng, (D, D)) for _ in range(3)], axis=1)


def _linear(
    D: int, E: int, kernel: Initialiser, bias: Initialiser | None = zeros
) -> dict[str, ParameterSpec]:
    layer = {"kernel": ParameterSpec((D, E), kernel)}
    if bias is not None:
        layer["bias"] = ParameterSpec((E,), bias)
    return layer


def _convolution(side: int, C: int, E: int) -> dict[str, ParameterSpec]:
    return {"kernel": ParameterSpec((side, side, C, E), lecun_normal)}


def _norm(D: int, scale: Initialiser = ones) -> dict[str, ParameterSpec]:
    return {"scale": ParameterSpec((D,), scale), "bias": ParameterSpec((D,), zeros)}
