"""What must hold exactly: symmetries, counts, first values, and the manners of pullbacks."""

import gc
import inspect
import math
import re
import tracemalloc
import types
import weakref

import numpy as np
import pytest
from test_layers import every_layer

from minivit import ViT, ViTConfig, flatten, layers
from minivit.layers import cross_entropy, patchify, self_attention, softmax, unpatchify
from minivit.models import (
    classify,
    embed,
    encoder_block,
    initialise,
    parameter_count,
    parameter_specs,
    resnet_stem,
    vit,
)
from minivit.models.config import POOLINGS, POSITIONS
from minivit.tree import count_parameters, map_tree

TINY = {
    "image_size": (4, 6), "patch_size": 2, "classes": 5,
    "width": 12, "depth": 2, "heads": 4, "mlp_width": 7,
}  # fmt: skip

HYBRID = {"image_size": (8, 11), "patch_size": 1, "depth": 1, "stem": (2,), "stem_width": 32}


def moved(config, seed=0):
    """A model's parameters, every one moved away from its first value."""
    rng = np.random.default_rng(seed)
    first = initialise(config, seed, "float64")
    return map_tree(lambda leaf: leaf + rng.normal(size=leaf.shape) * 0.3, first)


def images_of(config, batch=3, seed=1):
    size = (batch, *config.image_size, config.channels)
    return np.random.default_rng(seed).normal(size=size)


def every_function():
    """{name: (function, arguments)}: every layer, the model in its kinds, and its parts."""
    kinds = {
        "vit": {},
        "vit by mean with 2d positions and a hidden head": {
            "positions": "2d", "pooling": "mean", "hidden_head": 5, "gelu": "erf"
        },
        "vit with relative positions and dropout": {"positions": "relative", "dropout": 0.2},
        "vit with sincos2d positions": {"positions": "sincos2d"},
    }  # fmt: skip
    functions = every_layer()
    for name, fields in kinds.items():
        config = ViTConfig(**TINY, **fields)
        functions[name] = (seeded_vit, (images_of(config), moved(config), config))
    config = ViTConfig(**TINY)
    params, z = moved(config), np.random.default_rng(1).normal(size=(3, 7, 12))
    functions["embed"] = (embed, (images_of(config), params, config))
    functions["encoder_block"] = (encoder_block, (z, params["blocks"][0], config))
    functions["classify"] = (classify, (z, params, config))
    bare = ViTConfig(**TINY | {"classes": None}, qkv_bias=False, patch_bias=False)
    functions["vit without classes and biases"] = (vit, (images_of(bare), moved(bare), bare))
    hybrid = ViTConfig(**TINY | HYBRID)
    images, params = images_of(hybrid, 2), moved(hybrid)
    functions["vit as a hybrid"] = (vit, (images, params, hybrid))
    functions["resnet_stem"] = (resnet_stem, (images, params["stem"]))
    return functions


def seeded_vit(images, params, config):
    return vit(images, params, config, np.random.default_rng(7))


every = pytest.mark.parametrize("name", every_function())


def copied(tree):
    if isinstance(tree, (tuple, list)):
        return type(tree)(map(copied, tree))
    if isinstance(tree, dict):
        return {name: copied(branch) for name, branch in tree.items()}
    return tree.copy() if isinstance(tree, np.ndarray) else tree


def leaves(result):
    """The arrays that a pullback returned, or any tuples, lists and dicts of arrays, by name."""

    def listed(tree):
        if isinstance(tree, (tuple, list)):
            return [listed(branch) for branch in tree]
        return tree

    return flatten(listed([result]))


def same(first, second):
    first, second = leaves(first), leaves(second)
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


# Identities that teach


@pytest.mark.parametrize("table", [None, {"table": np.random.default_rng(2).normal(size=(10, 6))}])
def test_the_key_bias_has_no_gradient(table):
    # It adds the same to all scores of a query, and softmax forgets what is added to a whole row.
    z, qkv, out, heads, *_ = every_layer()["self_attention"][1]
    y, pullback = self_attention(z, qkv, out, heads, table)
    dbias = pullback(np.random.default_rng(3).normal(size=y.shape))[1]["qkv"]["bias"]
    query, key, value = abs(dbias.reshape(3, -1)).max(1)
    assert key <= 1e-14 * value
    assert query > 1e-3 * value


@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_the_gradient_of_layer_norm_moves_neither_mean_nor_variance(eps):
    x, scale, bias = every_layer()["layer_norm"][1]
    y, pullback = layers.layer_norm(x, scale, bias, eps)
    dy = np.random.default_rng(3).normal(size=y.shape)
    dx = pullback(dy)[0]
    assert abs(dx.sum(-1)).max() <= 1e-14 * abs(dx).max()
    # Along x_hat only the part of eps in the variance is left.
    variance = x.var(-1)
    x_hat = (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + eps)[..., None]
    left = (dy * scale * x_hat).sum(-1) * eps / (variance + eps) ** 1.5
    np.testing.assert_allclose((dx * x_hat).sum(-1), left, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_gradient_of_group_norm_moves_no_mean_of_a_group(groups):
    rng = np.random.default_rng(0)
    x, scale, bias = rng.normal(size=(2, 3, 4, 6)), rng.normal(size=6), rng.normal(size=6)
    y, pullback = layers.group_norm(x, scale, bias, groups)
    dx = pullback(rng.normal(size=y.shape))[0]
    sums = dx.reshape(2, 12, groups, -1).sum((1, 3))
    assert abs(sums).max() <= 1e-14 * abs(dx).max() * dx.size


def test_standardised_weights_do_not_learn_how_large_they_are():
    # Twice the kernel convolves alike: the gradient has no part along the kernel, save for eps.
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 5, 6, 3)), rng.normal(size=(3, 3, 3, 4))
    y, pullback = layers.standardised_convolution(x, kernel)
    dkernel = pullback(rng.normal(size=y.shape))[1]["kernel"]
    centred = kernel - kernel.mean((0, 1, 2))
    along = (dkernel * centred).sum((0, 1, 2))
    assert abs(along).max() < 1e-4 * np.linalg.norm(dkernel) * np.linalg.norm(centred)
    assert abs(dkernel.sum((0, 1, 2))).max() < 1e-12 * abs(dkernel).max() * dkernel.size


def test_the_rows_of_the_jacobian_of_softmax_sum_to_zero():
    p, pullback = softmax(np.random.default_rng(0).normal(size=5))
    jacobian = np.array([pullback(one_hot) for one_hot in np.eye(5)])
    assert abs(jacobian.sum(1)).max() < 1e-15
    np.testing.assert_allclose(jacobian, np.diag(p) - np.outer(p, p), atol=1e-15)


def shuffled(images, P, order):
    _, H, W, _ = images.shape
    return unpatchify(patchify(images, P)[0][:, order], P, H, W)[0]


ORDER = [3, 0, 5, 1, 4, 2]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_only_positions_tell_the_patches_apart(positions, pooling):
    config = ViTConfig(**TINY, positions=positions, pooling=pooling)
    images, params = images_of(config), moved(config)
    logits, _ = vit(images, params, config)
    other, _ = vit(shuffled(images, config.patch_size, ORDER), params, config)
    change = abs(other - logits).max() / abs(logits).max()
    assert (change < 1e-13) if positions == "none" else (change > 1e-3)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_without_positions_the_encoder_commutes_with_permutations(pooling):
    config = ViTConfig(**TINY, positions="none", pooling=pooling)
    images, params = images_of(config), moved(config)

    def encode(images):
        z, _ = embed(images, params, config)
        for block in params["blocks"]:
            z, _ = encoder_block(z, block, config)
        return z

    order = ORDER if pooling == "mean" else [0, *(i + 1 for i in ORDER)]
    z = encode(images)
    close = abs(encode(shuffled(images, config.patch_size, ORDER)) - z[:, order]).max()
    assert close < 1e-13 * abs(z).max()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_zero_head_starts_at_ln_K(classes, smoothing):
    config = ViTConfig(**TINY | {"classes": classes})
    images, params = images_of(config), initialise(config, 0, "float64")
    logits, pullback = vit(images, params, config)
    loss, loss_back = cross_entropy(logits, np.array([0, 1, 1]), smoothing)
    assert abs(loss - math.log(classes)) < 1e-13
    # And at first only the head learns: what comes down goes through its kernel of zeros.
    gradients = flatten(pullback(loss_back())[1])
    assert {name for name, leaf in gradients.items() if leaf.any()} == {"head/kernel", "head/bias"}


@pytest.mark.parametrize("positions", ["1d", "2d"])
def test_the_class_token_and_its_position_learn_alike(positions):
    config = ViTConfig(**TINY, positions=positions)
    logits, pullback = vit(images_of(config), moved(config), config)
    dparams = pullback(np.random.default_rng(3).normal(size=logits.shape))[1]
    of_position = dparams["positions"]
    own = of_position["table"][0] if positions == "1d" else of_position["class_token"]
    assert own.any()
    np.testing.assert_allclose(dparams["class_token"], own, rtol=1e-13)


# Parameter counts

#   name, backbone, 1000 classes, 21843 classes, 21843 with a hidden head of D, 1000 at 384 px
COUNTS = [
    ("Ti/16", 5_524_416, 5_717_416, 9_740_115, 9_777_171, 5_790_376),
    ("S/16", 21_665_664, 22_050_664, 30_075_219, 30_223_059, 22_196_584),
    ("S/32", 22_493_952, 22_878_952, 30_903_507, 31_051_347, 22_915_432),
    ("B/8", 85_807_872, 86_576_872, 102_605_139, 103_195_731, 87_744_232),
    ("B/16", 85_798_656, 86_567_656, 102_595_923, 103_186_515, 86_859_496),
    ("B/32", 87_455_232, 88_224_232, 104_252_499, 104_843_091, 88_297_192),
    ("L/16", 303_301_632, 304_326_632, 325_690_707, 326_740_307, 304_715_752),
    ("L/32", 305_510_400, 306_535_400, 327_899_475, 328_949_075, 306_632_680),
    ("H/14", 630_764_800, 632_045_800, 658_745_683, 660_385_363, 632_651_240),
]


def parameters_of(name, **fields):
    return parameter_count(ViTConfig.named(f"ViT-{name}", **fields))


@pytest.mark.parametrize(("name", "backbone", "k1000", "k21843", "hidden", "at_384"), COUNTS)
def test_the_counts_of_the_paper(name, backbone, k1000, k21843, hidden, at_384):
    width = ViTConfig.named(f"ViT-{name}").width
    assert parameters_of(name, classes=1) - (width + 1) == backbone
    assert parameters_of(name) == k1000
    assert parameters_of(name, classes=21843) == k21843
    assert parameters_of(name, classes=21843, hidden_head=width) == hidden
    # 14 does not divide 384. The authors drop the last 6 pixels, which leaves 27 x 27 patches.
    assert parameters_of(name, image_size=378 if name == "H/14" else 384) == at_384


@pytest.mark.parametrize(("name", "expected"), [("S/16", 22_049_896), ("B/16", 86_566_120)])
def test_the_counts_without_a_class_token(name, expected):
    assert parameters_of(name, pooling="mean") == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("Ti/4", 5_362_762), ("S/4", 21_342_346), ("B/4", 85_152_010)]
)
def test_the_counts_for_small_images(name, expected):
    assert parameters_of(name, image_size=32, classes=10) == expected


def test_counting_makes_no_parameters():
    tracemalloc.start()
    parameters_of("H/14")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6  # the model itself has 2.5e9 bytes


@pytest.mark.parametrize("hidden_head", [None, 9])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_a_model_has_the_parameters_that_were_counted(positions, pooling, hidden_head):
    config = ViTConfig(**TINY, positions=positions, pooling=pooling, hidden_head=hidden_head)
    params = ViT.create(config).params
    assert count_parameters(params) == parameter_count(config)
    expected = {name: leaf.shape for name, leaf in flatten(parameter_specs(config)).items()}
    assert {name: leaf.shape for name, leaf in flatten(params).items()} == expected


@pytest.mark.parametrize("fields", [{}, {"pooling": "mean", "positions": "2d", "hidden_head": 9}])
def test_the_gradients_are_a_tree_of_the_parameters_shape(fields):
    config = ViTConfig(**TINY, **fields)
    params = moved(config)
    logits, pullback = vit(images_of(config), params, config)
    gradients = flatten(pullback(logits)[1])
    shapes = {name: leaf.shape for name, leaf in flatten(params).items()}
    assert {name: leaf.shape for name, leaf in gradients.items()} == shapes


# First values

WIDE = {
    "image_size": 32, "patch_size": 4, "classes": 10,
    "width": 96, "depth": 2, "heads": 3, "mlp_width": 384,
}  # fmt: skip

DRAWN = {  # a block's number stands as *
    "patch_embedding/kernel": ("truncated", 1 / math.sqrt(4 * 4 * 3)),
    "patch_embedding/bias": ("constant", 0),
    "class_token": ("constant", 0),
    "positions/table": ("normal", 0.02),
    "positions/rows": ("normal", 0.02),
    "positions/columns": ("normal", 0.02),
    "positions/class_token": ("normal", 0.02),
    "blocks/*/norm1/scale": ("constant", 1),
    "blocks/*/norm1/bias": ("constant", 0),
    "blocks/*/attention/qkv/kernel": ("uniform", math.sqrt(3 / 96)),
    "blocks/*/attention/qkv/bias": ("constant", 0),
    "blocks/*/attention/out/kernel": ("uniform", math.sqrt(3 / 96)),
    "blocks/*/attention/out/bias": ("constant", 0),
    "blocks/*/attention/relative/table": ("normal", 0.02),
    "blocks/*/norm2/scale": ("constant", 1),
    "blocks/*/norm2/bias": ("constant", 0),
    "blocks/*/mlp/hidden/kernel": ("uniform", math.sqrt(6 / (96 + 384))),
    "blocks/*/mlp/hidden/bias": ("normal", 1e-6),
    "blocks/*/mlp/out/kernel": ("uniform", math.sqrt(6 / (96 + 384))),
    "blocks/*/mlp/out/bias": ("normal", 1e-6),
    "norm/scale": ("constant", 1),
    "norm/bias": ("constant", 0),
    "hidden/kernel": ("truncated", 1 / math.sqrt(96)),
    "hidden/bias": ("constant", 0),
    "head/kernel": ("constant", 0),
    "head/bias": ("constant", 0),
}


def is_drawn(x, kind, size):
    """Whether the numbers look like this distribution, of this value, limit or deviation."""
    if kind == "constant":
        return (x == size).all()
    deviation = size / math.sqrt(3) if kind == "uniform" else size
    doubt = 5 / math.sqrt(2 * x.size)  # five deviations of a sample's deviation
    centred = abs(x.mean()) < 5 * deviation / math.sqrt(x.size)
    far = abs(x).max() / size
    reach = {
        "uniform": 0.99 < far <= 1.000001,
        "normal": far > 2.1,
        "truncated": 2.2 < far <= 2 / 0.8796256,  # cut at 2, then enlarged to unit deviation
    }
    return centred and abs(x.std() / deviation - 1) < doubt and reach[kind]


def seen_parameters():
    kinds = [{"hidden_head": 96}, {"positions": "2d"}, {"positions": "relative"}]
    for fields in kinds:
        for name, leaf in flatten(initialise(ViTConfig(**WIDE, **fields), seed=1)).items():
            yield re.sub(r"/\d+/", "/*/", name), name, leaf


def test_every_parameter_is_drawn_as_the_authors_do():
    for pattern, name, leaf in seen_parameters():
        thirds = np.split(leaf, 3, axis=1) if name.endswith("qkv/kernel") else [leaf]
        for part in thirds:  # U_qkv is three matrices, each with a limit of its own size
            assert is_drawn(part.astype("float64"), *DRAWN[pattern]), name
    assert {pattern for pattern, _, _ in seen_parameters()} == set(DRAWN)


def test_the_stem_is_drawn_as_the_authors_do():
    config = ViTConfig(**WIDE, stem=(2, 1), stem_width=32)
    leaves = flatten(initialise(config, seed=1)["stem"])
    for name, leaf in leaves.items():
        kind = "constant", 1 if name.endswith("scale") else 0
        if name.endswith("norm3/scale"):
            kind = "constant", 0
        elif name.endswith("kernel"):
            kind = "truncated", 1 / math.sqrt(math.prod(leaf.shape[:3]))
        assert is_drawn(leaf.astype("float64"), *kind), name
    assert sum(name.endswith("norm3/scale") for name in leaves) == 3


def test_a_seed_gives_the_same_numbers_again_and_in_every_dtype():
    config = ViTConfig(**TINY)
    first, again = initialise(config, 3), initialise(config, 3)
    assert same(first, again)
    assert same(first, initialise(config, 3, "float64"))
    assert {leaf.dtype.name for leaf in flatten(first).values()} == {"float32"}
    other = initialise(config, 4)
    for name in ("patch_embedding", "positions", "blocks"):
        assert not same(first[name], other[name])
    one, two = (block["attention"]["qkv"]["kernel"] for block in first["blocks"])
    assert not np.array_equal(one, two)


# The manners of pullbacks


@every
def test_a_pullback_is_linear_in_its_cotangent(name):
    function, arguments = every_function()[name]
    value, pullback = function(*arguments)
    a, b = np.random.default_rng(3).normal(size=(2, *value.shape))
    both, of_a, of_b = (leaves(pullback(dy)) for dy in (2 * a - 3 * b, a, b))
    largest = max(abs(leaf).max() for leaf in both.values())
    for path, leaf in both.items():
        assert abs(leaf - (2 * of_a[path] - 3 * of_b[path])).max() <= 1e-13 * largest, path


@every
def test_a_pullback_may_be_called_twice_and_in_any_order(name):
    function, arguments = every_function()[name]
    value, pullback = function(*arguments)
    a, b = np.random.default_rng(3).normal(size=(2, *value.shape))
    first = [copied(pullback(dy)) for dy in (a, b)]
    again = [copied(pullback(dy)) for dy in (b, a, a, b)]
    assert same(first[0], again[1])
    assert same(first[0], again[2])
    assert same(first[1], again[0])
    assert same(first[1], again[3])
    assert not same(first[0], first[1])


@every
def test_nothing_writes_to_what_it_was_given(name):
    function, arguments = every_function()[name]
    value, pullback = function(*arguments)
    dy = np.random.default_rng(3).normal(size=value.shape)
    expected, expected_value = copied(pullback(dy)), value.copy()

    locked = copied(arguments)  # a write into a locked array raises
    for leaf in leaves((locked, dy)).values():
        if isinstance(leaf, np.ndarray):
            leaf.flags.writeable = False
    value, pullback = function(*locked)
    if isinstance(value, np.ndarray):
        value.flags.writeable = False  # the caller's by now
    assert same(pullback(dy), expected)
    assert same(pullback(dy), expected)
    assert np.array_equal(value, expected_value)


@every
def test_two_forwards_do_not_disturb_each_other(name):
    function, arguments = every_function()[name]
    others = copied(arguments)
    for leaf in leaves(others).values():
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f":
            leaf *= 1.5

    alone = []
    for given in (arguments, others):
        value, pullback = function(*given)
        dy = np.random.default_rng(3).normal(size=value.shape)
        alone.append((value.copy(), copied(pullback(dy)), dy))

    value1, pullback1 = function(*arguments)
    value2, pullback2 = function(*others)
    together1 = pullback1(alone[0][2])
    together2 = pullback2(alone[1][2])
    assert same((value1, together1), alone[0][:2])
    assert same((value2, together2), alone[1][:2])


def kept_by(pullback):
    """Weak references to a pullback, to the functions inside it, and to the arrays they hold."""
    references, seen, waiting = [], set(), [pullback]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            references.append(weakref.ref(thing))
        elif isinstance(thing, (list, tuple)):
            waiting += thing
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, types.FunctionType) and "<locals>" in thing.__qualname__:
            references.append(weakref.ref(thing))
            waiting += inspect.getclosurevars(thing).nonlocals.values()
    return references


def survivors(make):
    """How many of the things that a pullback keeps outlive it, and how many there are."""
    function, arguments = make()
    value, pullback = function(*arguments)
    pullback(np.ones_like(value))
    references = kept_by(pullback)
    del function, arguments, value, pullback
    return sum(reference() is not None for reference in references), len(references)


@pytest.fixture
def no_garbage_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collector")
@every
def test_what_a_pullback_keeps_goes_with_it(name):
    alive, kept = survivors(lambda: every_function()[name])
    assert alive == 0, f"{alive} of {kept} wait for the garbage collector"


@pytest.mark.usefixtures("no_garbage_collector")
def test_a_cycle_would_be_seen():
    def square(x):
        steps = []
        doubled = 2 * x

        def pullback(dy):
            return dy * doubled if steps else dy

        steps.append(pullback)  # the pullback sits in a list that it captures
        return x * x, pullback

    assert survivors(lambda: (square, [np.ones(3)])) == (2, 2)
