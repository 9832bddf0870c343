"""Every gradient that minivit claims, and the inputs at which it is proven.

The tests and `python -m minivit gradcheck` both go through this list. Layers are checked entry by
entry on tiny, odd shapes; whole models along random directions, in every combination of their
options. All parameters are far from their first values.
"""

from collections.abc import Callable, Iterator
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .. import layers
from ..arrays import Array
from ..devices import device_module
from ..models import ViTConfig, bottleneck, encoder_block, initialise, vit
from ..models.config import GELUS, POOLINGS, POSITIONS
from ..tree import Tree, map_tree
from .gradcheck import GradientReport, gradcheck

# The smallest width that 32 groups share, on sides that no stride divides; the map is 2 x 3.
HYBRID = {"stem": (1, 1), "stem_width": 32, "image_size": (15, 22), "patch_size": 1, "depth": 1}


class Case(NamedTuple):
    """A function, arguments to check it at, and how: `directions` as in `gradcheck`."""

    name: str
    f: Callable[..., Any]
    arguments: tuple[Any, ...]
    directions: int | None = None

    def check(self, device: str = "cpu") -> GradientReport:
        """The errors of all its arguments, on this device.

        There a pullback may be a kernel's, and the complex step is that of the plain function:
        the kernel then has to be the derivative of what stands in `layers`.
        """
        arguments = [convert_arrays(argument, device_module(device)) for argument in self.arguments]
        return gradcheck(self.f, *arguments, directions=self.directions)


def convert_arrays(argument: Any, xp: ModuleType) -> Any:
    """An argument with all of its arrays in this module's memory."""
    if isinstance(argument, (dict, list)):
        return map_tree(lambda leaf: convert_arrays(leaf, xp), argument)
    return xp.asarray(argument) if isinstance(argument, np.ndarray) else argument


def all_cases() -> Iterator[Case]:
    """First the layers, then the models."""
    yield from layer_cases()
    yield from model_cases()


def layer_cases() -> Iterator[Case]:
    """Each layer, in each of its forms."""
    rng = np.random.default_rng(0)

    def x(*shape: int) -> Array:
        return rng.normal(size=shape)

    def affine(D: int, E: int) -> dict[str, Array]:
        return {"kernel": x(D, E), "bias": x(E)}

    images, patches = x(2, 4, 6, 3), x(2, 6, 12)
    yield Case("patchify", layers.patchify, (images, 2))
    yield Case("unpatchify", layers.unpatchify, (patches, 2, 4, 6))
    yield Case("linear", layers.linear, (x(2, 3, 4), x(4, 5), x(5)))
    yield Case("linear without bias", layers.linear, (x(2, 3, 4), x(4, 5)))
    yield Case("patch_embedding", layers.patch_embedding, (images, x(12, 5), x(5), 2))
    without = (images, x(12, 5), None, 2)
    yield Case("patch_embedding without bias", layers.patch_embedding, without)
    yield Case("prepend_class_token", layers.prepend_class_token, (x(3, 4, 5), x(5)))

    yield Case("add_positions", layers.add_positions, (x(3, 4, 5), x(4, 5)))
    halves = x(2, 4), x(3, 4)
    yield Case("add_positions_2d", layers.add_positions_2d, (x(2, 6, 8), *halves))
    with_class = (x(2, 7, 8), *halves, x(8))
    yield Case("add_positions_2d, class token", layers.add_positions_2d, with_class)
    yield Case("add_positions_sincos2d", layers.add_positions_sincos2d, (x(2, 7, 8), (2, 3)))
    for class_token, R in ((False, 7), (True, 10)):  # four patches
        q = x(2, 3, 4 + class_token, 5)
        name = "relative_positions" + ", class token" * class_token
        yield Case(name, layers.relative_positions, (q, x(R, 15), class_token))

    yield Case("layer_norm", layers.layer_norm, (x(2, 3, 5), x(5), x(5)))
    yield Case("softmax", layers.softmax, (3 * x(2, 4, 5),))
    qkv, out = affine(6, 18), affine(6, 6)
    yield Case("attend", _attend, (x(2, 3, 4, 5), x(2, 3, 4, 5), x(2, 3, 4, 5), x(2, 3, 4, 4)))
    yield Case("single_head_attention", layers.single_head_attention, (x(2, 4, 5), x(5, 9), x(9)))
    yield Case("self_attention", layers.self_attention, (x(2, 5, 6), qkv, out, 2))
    relative = (x(2, 5, 6), qkv, out, 2, {"table": x(10, 6)})
    yield Case("self_attention, relative", layers.self_attention, relative)
    for kind in GELUS:
        yield Case(f"gelu, {kind}", layers.gelu, (2 * x(3, 7), kind))
        yield Case(f"mlp, {kind}", layers.mlp, (x(2, 3, 5), affine(5, 7), affine(7, 5), kind))
    yield Case("dropout", _dropout, (x(3, 7),))
    yield Case("drop_path", _drop_path, (x(7, 2, 3),))
    yield Case("mlp, dropout", _mlp_dropout, (x(2, 3, 5), affine(5, 7), affine(7, 5)))

    yield Case("class_pool", layers.class_pool, (x(2, 4, 5),))
    yield Case("mean_pool", layers.mean_pool, (x(2, 4, 5),))
    yield Case("hidden_layer", layers.hidden_layer, (x(3, 5), x(5, 4), x(4)))
    yield Case("pretraining_head", layers.pretraining_head, (x(3, 5), affine(5, 4), affine(4, 6)))
    labels, soft = np.array([4, 0, 2]), rng.dirichlet(np.ones(5), size=3)
    yield Case("cross_entropy", layers.cross_entropy, (x(3, 5), labels))
    yield Case("cross_entropy, smoothing", layers.cross_entropy, (x(3, 5), labels, 0.1))
    yield Case("cross_entropy, soft targets", _soft_cross_entropy(soft), (x(3, 5),))
    yield Case("mean_squared_error", layers.mean_squared_error, (x(3, 5), x(3, 5)))

    for name, rates in {
        "encoder_block": {},
        "encoder_block, dropout": {"dropout": 0.3},
        "encoder_block, drop path": {"drop_path": 0.28},  # leaves out each branch once
    }.items():
        config = _config(**rates)
        block = perturb(initialise(config, dtype="float64")["blocks"][0], rng)
        yield Case(name, _block(config), (x(2, 5, 8), block))
    yield from resnet_cases()


def resnet_cases() -> Iterator[Case]:
    """The layers of a hybrid's stem, on maps whose sides are odd and even."""
    rng = np.random.default_rng(4)

    def x(*shape: int) -> Array:
        return rng.normal(size=shape)

    for side, stride in ((3, 1), (3, 2), (7, 2), (1, 1), (1, 2)):
        name = f"convolution, {side} x {side}, stride {stride}"
        yield Case(name, layers.convolution, (x(2, 5, 6, 3), x(side, side, 3, 4), stride))
    yield Case("standardise", layers.standardise, (x(3, 3, 2, 4),))
    yield Case("standardise, small weights", layers.standardise, (1e-5 * x(3, 3, 2, 4),))
    convolved = (x(2, 5, 6, 3), x(3, 3, 3, 4), 2)
    yield Case("standardised_convolution", layers.standardised_convolution, convolved)
    yield Case("group_norm", layers.group_norm, (x(2, 3, 4, 6), x(6), x(6), 2))
    yield Case("group_norm, single channels", layers.group_norm, (x(2, 3, 4, 3), x(3), x(3), 3))
    yield Case("relu", layers.relu, (x(3, 7),))
    yield Case("max_pool", layers.max_pool, (x(2, 5, 6, 3),))
    config = _config(**HYBRID | {"stem": (2, 1)})
    stem = perturb(initialise(config, dtype="float64")["stem"], rng)
    (first, second), (next_stage,) = stem["stages"]
    for name, C, unit, stride in (
        ("bottleneck, first unit", 32, first, 1),
        ("bottleneck", 128, second, 1),
        ("bottleneck, next stage", 128, next_stage, 2),
    ):
        yield Case(name, _bottleneck(stride), (x(2, 3, 4, C), unit), directions=3)


def model_cases() -> Iterator[Case]:
    """The whole model: all positions x poolings x heads x GELUs, one with dropout, some with less
    than all layers, and hybrids with two stages, one, and the root alone."""
    options = product(POSITIONS, POOLINGS, (None, 5), GELUS)
    for positions, pooling, hidden_head, gelu in options:
        head = "linear head" if hidden_head is None else "tanh head"
        yield _model_proof(
            f"ViT, {positions}, {pooling}, {head}, {gelu}",
            _config(positions=positions, pooling=pooling, hidden_head=hidden_head, gelu=gelu),
        )
    yield _model_proof("ViT, dropout", _config(dropout=0.3))
    yield _model_proof("ViT, drop path", _config(drop_path=0.5))
    yield _model_proof("ViT, no classes", _config(classes=None))
    yield _model_proof("ViT, no classes, tanh", _config(classes=None, hidden_head=5))
    yield _model_proof("ViT, no qkv bias", _config(qkv_bias=False))
    yield _model_proof("ViT, relative, no qkv bias", _config(positions="relative", qkv_bias=False))
    yield _model_proof("ViT, no patch bias", _config(patch_bias=False))
    fields = {"classes": None, "qkv_bias": False, "patch_bias": False, "pooling": "mean"}
    yield _model_proof("ViT, none of these", _config(**fields))
    yield _model_proof("hybrid", _config(**HYBRID))
    root = {"stem": (), "image_size": (15, 24), "patch_size": 2}
    yield _model_proof("hybrid, root alone", _config(**HYBRID | root))
    one = {"stem": (2,), "image_size": (7, 10)}
    yield _model_proof("hybrid, one stage", _config(**HYBRID | one | fields))


def perturb(params: Tree, rng: np.random.Generator) -> Tree:
    """Parameters far from their first values, where zeros and ones would hide mistakes."""
    return map_tree(lambda p: p + 0.5 * rng.normal(size=p.shape), params)


def _config(**fields: Any) -> ViTConfig:
    shape = {"image_size": (4, 6), "patch_size": 2, "channels": 2, "classes": 3}
    shape |= {"width": 8, "depth": 2, "heads": 2, "mlp_width": 7}
    return ViTConfig(**shape | fields)


def _model_proof(name: str, config: ViTConfig) -> Case:
    rng = np.random.default_rng(1)
    params = perturb(initialise(config, dtype="float64"), rng)

    def f(images: Array, params: Tree) -> tuple[Array, Callable[..., Any]]:
        return vit(images, params, config, np.random.default_rng(2))

    images = rng.normal(size=(3, *config.image_size, config.channels))
    return Case(name, f, (images, params), directions=3)


def _block(config: ViTConfig) -> Callable[..., Any]:
    return lambda z, params: encoder_block(z, params, config, np.random.default_rng(2))


def _bottleneck(stride: int) -> Callable[..., Any]:
    return lambda x, params: bottleneck(x, params, stride)


def _attend(q: Array, k: Array, v: Array, bias: Array) -> tuple[Array, Callable[..., Any]]:
    return layers.attend(q, k, v, bias)


def _dropout(x: Array) -> tuple[Array, Callable[..., Any]]:
    return layers.dropout(x, 0.3, np.random.default_rng(2))  # a new one each time: the same mask


def _drop_path(x: Array) -> tuple[Array, Callable[..., Any]]:
    return layers.drop_path(x, 0.3, np.random.default_rng(2))


def _mlp_dropout(x: Array, hidden: Tree, out: Tree) -> tuple[Array, Callable[..., Any]]:
    return layers.mlp(x, hidden, out, "tanh", 0.3, np.random.default_rng(2))


def _soft_cross_entropy(targets: Array) -> Callable[..., Any]:
    return lambda logits: layers.cross_entropy(logits, targets)
