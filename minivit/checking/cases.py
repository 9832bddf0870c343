"""The functions whose gradients are verified, each with its arguments.

`minivit gradcheck` and the tests of gradients, dtypes, GPU arrays and CUDA kernels use this list.
Layers are checked entry by entry on tiny arrays of odd shapes, and whole models along random
directions. The parameters differ from their initial zeros and ones, which would hide mistakes.
"""

from collections.abc import Callable
from functools import partial, wraps
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from .. import layers
from ..arrays import Array
from ..devices import device_module
from ..models import ViTConfig, bottleneck, encoder_block, initialise, vit
from ..models.config import GELUS, POOLINGS, POSITIONS
from ..parallel import single_threaded_blas
from ..tree import Tree, map_tree
from .gradcheck import GradientReport, gradcheck

BARE = {"classes": None, "qkv_bias": False, "patch_bias": False, "pooling": "mean"}
# The smallest width that 32 groups divide, and sides that no stride divides. The grid is 2 x 3.
HYBRID = {"stem": (1, 1), "stem_width": 32, "image_size": (15, 22), "patch_size": 1, "depth": 1}


class Case(NamedTuple):
    """A function and the arguments at which its gradient is checked."""

    name: str  # starts with the name of the layer
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    directions: int | None = None  # as in `gradcheck`

    def check(self, device: str = "cpu") -> GradientReport:
        """Check the gradients of all arguments on a device.

        On a GPU, this compares the pullback of a CUDA kernel with the complex step of the readable
        layer, because complex arrays do not use the kernels.
        """
        xp = device_module(device)

        def move(leaf: Any) -> Any:
            return xp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf

        arguments = map_tree(move, list(self.arguments))
        with single_threaded_blas():  # the matrices are tiny
            return gradcheck(self.function, *arguments, directions=self.directions)


def all_cases() -> list[Case]:
    """List the cases of all layers and of all models."""
    return [*layer_cases(), *model_cases()]


def layer_cases() -> list[Case]:
    """List the layers, with and without their optional parts."""
    rng = np.random.default_rng(0)

    def x(*shape: int) -> Array:
        return rng.normal(size=shape)

    def affine(D: int, E: int) -> dict[str, Array]:
        return {"kernel": x(D, E), "bias": x(E)}

    images, z, q_k_v = x(2, 4, 6, 3), x(2, 5, 6), x(3, 2, 3, 4, 5)
    rows, columns, hidden, out = x(2, 4), x(3, 4), affine(5, 7), affine(7, 5)
    attention = z, affine(6, 18), affine(6, 6), 2
    logits, labels, soft = x(3, 5), np.array([4, 0, 2]), rng.dirichlet(np.ones(5), size=3)
    soft_cross_entropy = partial(layers.cross_entropy, labels=soft)
    config, dropout_config = _config(), _config(dropout=0.3)
    block_input = x(2, 5, 8), _params(config, rng)["blocks"][0]
    features, filters = x(2, 5, 6, 3), x(3, 3, 3, 4)
    stem = _params(_config(**HYBRID | {"stem": (2, 1)}), rng)["stem"]
    (first, second), (next_stage,) = stem["stages"]
    # The seed drops each of the two branches once.
    drop_path_block = seeded(encoder_block, config=config, drop_path_rate=0.28)
    case = _layer_case
    return [
        case(layers.patchify, images, 2),
        case(layers.unpatchify, x(2, 6, 12), 2, 4, 6),
        case(layers.linear, x(2, 3, 4), x(4, 5), x(5)),
        case(layers.linear, x(2, 3, 4), x(4, 5), variant="no bias"),
        case(layers.patch_embedding, images, x(12, 5), x(5), 2),
        case(layers.patch_embedding, images, x(12, 5), None, 2, variant="no bias"),
        case(layers.prepend_class_token, x(3, 4, 5), x(5)),
        case(layers.add_positions, x(3, 4, 5), x(4, 5)),
        case(layers.add_positions_2d, x(2, 6, 8), rows, columns),
        case(layers.add_positions_2d, x(2, 7, 8), rows, columns, x(8), variant="class token"),
        case(layers.add_positions_sincos2d, x(2, 7, 8), (2, 3)),
        case(layers.relative_positions, x(2, 3, 4, 5), x(7, 15), False),
        case(layers.relative_positions, x(2, 3, 5, 5), x(10, 15), True, variant="class token"),
        case(layers.layer_norm, x(2, 3, 5), x(5), x(5)),
        case(layers.softmax, 3 * x(2, 4, 5)),
        case(layers.attend, *q_k_v),
        case(layers.attend, *q_k_v, x(2, 3, 4, 4), variant="bias"),
        case(layers.single_head_attention, x(2, 4, 5), x(5, 9), x(9)),
        case(layers.self_attention, *attention),
        case(layers.self_attention, *attention, {"table": x(10, 6)}, variant="relative"),
        case(seeded(layers.self_attention, rate=0.3), *attention, variant="dropout"),
        *(case(layers.gelu, 2 * x(3, 7), kind, variant=kind) for kind in GELUS),
        *(case(layers.mlp, x(2, 3, 5), hidden, out, kind, variant=kind) for kind in GELUS),
        case(seeded(layers.mlp, rate=0.3), x(2, 3, 5), hidden, out, variant="dropout"),
        case(seeded(layers.dropout, rate=0.3), x(3, 7)),
        case(seeded(layers.drop_path, rate=0.3), x(7, 2, 3)),
        case(layers.class_pool, x(2, 4, 5)),
        case(layers.mean_pool, x(2, 4, 5)),
        case(layers.hidden_layer, x(3, 5), x(5, 4), x(4)),
        case(layers.pretraining_head, x(3, 5), affine(5, 4), affine(4, 6)),
        case(layers.cross_entropy, logits, labels),
        case(layers.cross_entropy, logits, labels, 0.1, variant="smoothing"),
        Case("cross_entropy, soft targets", soft_cross_entropy, (logits,)),
        case(layers.mean_squared_error, x(3, 5), x(3, 5)),
        case(encoder_block, *block_input, config),
        case(seeded(encoder_block, config=dropout_config), *block_input, variant="dropout"),
        case(drop_path_block, *block_input, variant="drop path"),
        *(
            case(layers.convolution, features, x(h, w, 3, 4), s, variant=f"{h} x {w}, stride {s}")
            for h, w, s in ((3, 3, 1), (3, 3, 2), (7, 7, 2), (3, 2, 1), (1, 1, 1), (1, 1, 2))
        ),
        case(layers.standardise, x(3, 3, 2, 4)),
        case(layers.standardise, 1e-5 * x(3, 3, 2, 4), variant="small weights"),
        case(layers.standardised_convolution, features, filters, 2),
        case(layers.group_norm, x(2, 3, 4, 6), x(6), x(6), 2),
        case(layers.group_norm, x(2, 3, 4, 3), x(3), x(3), 3, variant="single channels"),
        case(layers.relu, x(3, 7)),
        case(layers.max_pool, features),
        case(layers.max_pool, x(2, 3, 4, 2), 2, 1, variant="2 x 2, stride 1"),
        case(bottleneck, x(2, 3, 4, 32), first, 1, variant="first unit", directions=3),
        case(bottleneck, x(2, 3, 4, 128), second, 1, directions=3),
        case(bottleneck, x(2, 3, 4, 128), next_stage, 2, variant="next stage", directions=3),
    ]


def _layer_case(
    function: Callable[..., Any], *arguments: Any, variant: str = "", directions: int | None = None
) -> Case:
    name = f"{function.__name__}, {variant}" if variant else function.__name__
    return Case(name, function, arguments, directions)


def model_cases() -> list[Case]:
    """List models with all positions, poolings, heads and GELUs, and other optional parts."""
    models: dict[str, dict[str, Any]] = {
        f"ViT, {positions}, {pooling}, {'tanh' if hidden else 'linear'} head, {gelu}": {
            "positions": positions, "pooling": pooling, "hidden_head": hidden, "gelu": gelu,
        }
        for positions, pooling, hidden, gelu in product(POSITIONS, POOLINGS, (None, 5), GELUS)
    }  # fmt: skip
    models |= {
        "ViT, dropout": {"dropout": 0.3},
        "ViT, drop path": {"drop_path": 0.5},
        "ViT, no classes": {"classes": None},
        "ViT, no classes, tanh": {"classes": None, "hidden_head": 5},
        "ViT, no qkv bias": {"qkv_bias": False},
        "ViT, relative, no qkv bias": {"positions": "relative", "qkv_bias": False},
        "ViT, no patch bias": {"patch_bias": False},
        "ViT, no optional parts": BARE,
        "hybrid": HYBRID,
        "hybrid, root alone": HYBRID | {"stem": (), "image_size": (15, 24), "patch_size": 2},
        "hybrid, one stage": HYBRID | BARE | {"stem": (2,), "image_size": (7, 10)},
    }
    return [_model_case(name, _config(**fields)) for name, fields in models.items()]


def _model_case(name: str, config: ViTConfig) -> Case:
    rng = np.random.default_rng(1)
    params = _params(config, rng)
    images = rng.normal(size=(3, *config.image_size, config.channels))
    return Case(name, seeded(vit, config=config), (images, params), directions=3)


def _config(**fields: Any) -> ViTConfig:
    tiny: dict[str, Any] = {"image_size": (4, 6), "patch_size": 2, "channels": 2, "classes": 3}
    tiny |= {"width": 8, "depth": 2, "heads": 2, "mlp_width": 7}
    return ViTConfig(**tiny | fields)


def _params(config: ViTConfig, rng: np.random.Generator) -> Tree:
    return perturb(initialise(config, dtype="float64"), rng)


def seeded(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
    """Bind keyword arguments to a function, and pass a new generator of the same seed each time."""

    @wraps(function)
    def wrapped(*args: Any) -> Any:
        return function(*args, **kwargs, generator=np.random.default_rng(2))

    return wrapped


def perturb(params: Tree, rng: np.random.Generator) -> Tree:
    """Add normal noise of standard deviation 0.5 to all parameters."""
    return map_tree(lambda p: p + 0.5 * rng.normal(size=p.shape), params)
