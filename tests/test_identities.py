"""Exact properties: invariances, parameter counts, initial values, and the rules for pullbacks."""

import gc
import math
import re
import tracemalloc
import weakref
from copy import deepcopy

import numpy as np
import pytest
from helpers.closures import rebound_captures
from helpers.models import same_bits

from minivit import ViT, ViTConfig, flatten, layers, list_retained
from minivit.checking.cases import all_cases, perturb
from minivit.layers import cross_entropy, patchify, softmax, unpatchify
from minivit.models import embed, encoder_block, initialise, parameter_count, parameter_specs, vit
from minivit.models.config import POOLINGS, POSITIONS
from minivit.tree import count_parameters

TINY = {
    "image_size": (4, 6), "patch_size": 2, "classes": 5,
    "width": 12, "depth": 2, "heads": 4, "mlp_width": 7,
}  # fmt: skip
CASES = {case.name: case for case in all_cases()}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def perturbed_params(config):
    return perturb(initialise(config, dtype="float64"), np.random.default_rng(0))


def random_images(config):
    return np.random.default_rng(1).normal(size=(3, *config.image_size, config.channels))


def evaluate(case):
    """Return the value, the pullback and two cotangents of a case."""
    value, pullback = case.function(*case.arguments)
    return value, pullback, *np.random.default_rng(3).normal(size=(2, *value.shape))


def leaves(result):
    """Return the arrays of tuples, lists and dicts by name."""

    def to_lists(tree):
        return [to_lists(branch) for branch in tree] if isinstance(tree, (tuple, list)) else tree

    return flatten(to_lists([result]))


def same_results(a, b):
    return same_bits(leaves(a), leaves(b))


# --- invariances ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["self_attention", "self_attention, relative"])
def test_the_key_bias_has_no_gradient(name):
    # It adds a constant to all scores of a query, and softmax is invariant to such a shift.
    _, pullback, dy, _ = evaluate(CASES[name])
    query, key, value = abs(pullback(dy)[1]["qkv"]["bias"].reshape(3, -1)).max(1)
    assert key <= 1e-14 * value
    assert query > 1e-3 * value


@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_the_gradient_of_layer_norm_changes_neither_mean_nor_variance(eps):
    x, scale, bias = CASES["layer_norm"].arguments
    y, pullback = layers.layer_norm(x, scale, bias, eps)
    dy = np.random.default_rng(3).normal(size=y.shape)
    dx = pullback(dy)[0]
    assert abs(dx.sum(-1)).max() <= 1e-14 * abs(dx).max()
    # The component along x_hat would be zero without the epsilon of the variance.
    variance = x.var(-1)
    x_hat = (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + eps)[..., None]
    component = (dy * scale * x_hat).sum(-1) * eps / (variance + eps) ** 1.5
    np.testing.assert_allclose((dx * x_hat).sum(-1), component, rtol=1e-9, atol=1e-14)


def test_the_jacobian_of_softmax_matches_its_formula():
    p, pullback = softmax(np.random.default_rng(0).normal(size=5))
    jacobian = np.array([pullback(one_hot) for one_hot in np.eye(5)])
    assert abs(jacobian.sum(1)).max() < 1e-15
    np.testing.assert_allclose(jacobian, np.diag(p) - np.outer(p, p), atol=1e-15)


ORDER = [3, 0, 5, 1, 4, 2]


def shuffle_patches(images, P):
    return unpatchify(patchify(images, P)[0][:, ORDER], P, *images.shape[1:3])[0]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_only_position_embeddings_depend_on_the_order_of_patches(positions, pooling):
    config = ViTConfig(**TINY, positions=positions, pooling=pooling)
    images, params = random_images(config), perturbed_params(config)
    shuffled = shuffle_patches(images, config.patch_size)
    logits, other = (vit(x, params, config)[0] for x in (images, shuffled))
    change = abs(other - logits).max() / abs(logits).max()
    assert (change < 1e-13) if positions == "none" else (change > 1e-3)
    if positions == "none":  # the encoder is equivariant to permutations
        z, other = (encode(x, params, config) for x in (images, shuffled))
        order = ORDER if pooling == "mean" else [0, *(i + 1 for i in ORDER)]
        assert abs(other - z[:, order]).max() < 1e-13 * abs(z).max()


def encode(images, params, config):
    z, _ = embed(images, params, config)
    for block in params["blocks"]:
        z, _ = encoder_block(z, block, config)
    return z


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [2, 1000])
def test_the_initial_loss_is_ln_K_and_only_the_head_has_gradients(classes, smoothing):
    config = ViTConfig(**TINY | {"classes": classes})
    logits, pullback = vit(random_images(config), initialise(config, 0, "float64"), config)
    loss, loss_back = cross_entropy(logits, np.array([0, 1, 1]), smoothing)
    assert abs(loss - math.log(classes)) < 1e-13
    gradients = flatten(pullback(loss_back())[1])
    assert {name for name, leaf in gradients.items() if leaf.any()} == {"head/kernel", "head/bias"}


# --- parameter counts -------------------------------------------------------------------------

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


def count(name, **fields):
    return parameter_count(ViTConfig.named(f"ViT-{name}", **fields))


@pytest.mark.parametrize(("name", "backbone", "k1000", "k21843", "hidden", "at_384"), COUNTS)
def test_parameter_counts_match_the_paper(name, backbone, k1000, k21843, hidden, at_384):
    width = ViTConfig.named(f"ViT-{name}").width
    assert count(name, classes=None) == count(name, classes=1) - (width + 1) == backbone
    assert count(name) == k1000
    assert count(name, classes=21843) == k21843
    assert count(name, classes=21843, hidden_head=width) == hidden
    # 14 does not divide 384. The authors drop the last 6 pixels, which leaves 27 x 27 patches.
    assert count(name, image_size=378 if name == "H/14" else 384) == at_384


def test_parameter_counts_of_other_models_match_published_models():
    for name, expected in (("S/16", 22_049_896), ("B/16", 86_566_120)):
        assert count(name, pooling="mean") == expected
    for name, expected in (("Ti/4", 5_362_762), ("S/4", 21_342_346), ("B/4", 85_152_010)):
        assert count(name, image_size=32, classes=10) == expected


def test_counting_allocates_no_parameters():
    tracemalloc.start()
    count("H/14")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6  # the model itself has 2.5e9 bytes


@pytest.mark.parametrize("hidden_head", [None, 9])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_parameters_and_gradients_have_the_specified_shapes(positions, pooling, hidden_head):
    config = ViTConfig(**TINY, positions=positions, pooling=pooling, hidden_head=hidden_head)
    params = ViT.create(config).params
    assert count_parameters(params) == parameter_count(config)
    logits, pullback = vit(random_images(config), params, config)
    shapes = [
        {name: leaf.shape for name, leaf in flatten(tree).items()}
        for tree in (params, parameter_specs(config), pullback(logits)[1])
    ]
    assert shapes[0] == shapes[1] == shapes[2]


# --- initial values ---------------------------------------------------------------------------

WIDE = {
    "image_size": 32, "patch_size": 4, "classes": 10,
    "width": 96, "depth": 2, "heads": 3, "mlp_width": 384,
}  # fmt: skip
# Name -> distribution and its value, standard deviation or limit. The first match is used.
INITIAL = {
    r"(patch_embedding|hidden)/kernel|stem/.*conv\w*/kernel": ("truncated", None),  # by fan-in
    r"positions/.*|blocks/\d/attention/relative/table": ("normal", 0.02),
    r"blocks/\d/attention/(qkv|out)/kernel": ("uniform", math.sqrt(3 / 96)),
    r"blocks/\d/mlp/(hidden|out)/kernel": ("uniform", math.sqrt(6 / (96 + 384))),
    r"blocks/\d/mlp/(hidden|out)/bias": ("normal", 1e-6),
    r"stem/.*norm3/scale": ("constant", 0),
    r".*norm\w*/scale": ("constant", 1),
    r"head/kernel|class_token|.*/bias": ("constant", 0),
}


def is_sample(x, distribution, scale):
    """Return whether the numbers can be a sample of a distribution, within five standard errors."""
    if distribution == "constant":
        return (x == scale).all()
    std = scale / math.sqrt(3) if distribution == "uniform" else scale
    limit, largest = 5 * std / math.sqrt(x.size), abs(x).max() / scale
    in_range = {
        "uniform": 0.99 < largest <= 1.000001,
        "normal": largest > 2.1,
        "truncated": 2.2 < largest <= 2 / 0.8796256,  # truncated at 2, scaled to unit variance
    }
    mean_and_std = abs(x.mean()) < limit and abs(x.std() - std) < limit / math.sqrt(2)
    return mean_and_std and in_range[distribution]


def test_initial_values_follow_the_authors_code():
    used = set()
    variants = [{"hidden_head": 96}, {"positions": "2d"}, {"positions": "relative"}]
    for fields in [*variants, {"stem": (2, 1), "stem_width": 32, "patch_size": 1}]:
        params = initialise(ViTConfig(**WIDE | fields), seed=1)
        for name, leaf in flatten(params).items():
            pattern = next(pattern for pattern in INITIAL if re.fullmatch(pattern, name))
            used.add(pattern)
            distribution, scale = INITIAL[pattern]
            scale = 1 / math.sqrt(math.prod(leaf.shape[:-1])) if scale is None else scale
            # U_qkv contains three matrices. The limit depends on the shape of one.
            parts = np.split(leaf, 3, axis=1) if name.endswith("qkv/kernel") else [leaf]
            assert all(is_sample(p.astype("float64"), distribution, scale) for p in parts), name
    assert used == set(INITIAL)


def test_a_seed_gives_the_same_numbers_in_every_dtype():
    config = ViTConfig(**TINY)
    params = initialise(config, 3)
    assert same_bits(params, initialise(config, 3))
    assert same_bits(params, initialise(config, 3, "float64"))
    assert {leaf.dtype.name for leaf in flatten(params).values()} == {"float32"}
    other_seed = initialise(config, 4)
    for name in ("patch_embedding", "positions", "blocks"):
        assert not same_bits(params[name], other_seed[name])
    kernels = [block["attention"]["qkv"]["kernel"] for block in params["blocks"]]
    assert not np.array_equal(*kernels)


# --- the rules for pullbacks ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("y = x; f = lambda dy: dy * y", 0),
        ("y = x; f = lambda dy, y=y: dy * y; y = 2", 0),
        ("y = x; y = y + 1; f = lambda dy: dy * y", 1),
        ("x *= 2; f = lambda dy: dy * x", 1),
        ("f = [lambda dy: dy * y for y in x]", 1),
        ("def f(dy): return f(dy)", 1),
        ("y = x\n    def f(dy): nonlocal y; y = dy", 1),
    ],
)
def test_a_captured_variable_that_is_bound_again_is_found(body, count):
    source = f"def layer(x):\n    {body}\n    return f"
    assert len(rebound_captures(source)) == count


@every_case
def test_a_pullback_is_linear(case):
    _, pullback, a, b = evaluate(case)
    combined, da, db = (leaves(pullback(dy)) for dy in (2 * a - 3 * b, a, b))
    largest = max(abs(leaf).max() for leaf in combined.values())
    for path, leaf in combined.items():
        assert abs(leaf - (2 * da[path] - 3 * db[path])).max() <= 1e-13 * largest, path


@every_case
def test_a_pullback_can_be_called_again_and_writes_to_no_array_of_the_caller(case):
    value, pullback, a, b = evaluate(case)
    expected, first, second = value.copy(), deepcopy(pullback(a)), deepcopy(pullback(b))
    assert not same_results(first, second)
    case = case._replace(arguments=deepcopy(case.arguments))
    for leaf in leaves((case.arguments, a, b)).values():
        if isinstance(leaf, np.ndarray):
            leaf.flags.writeable = False  # a write to this array raises ValueError
    value, pullback = case.function(*case.arguments)
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    for dy, gradients in ((b, second), (a, first), (a, first), (b, second)):
        assert same_results(pullback(dy), gradients)
    assert np.array_equal(value, expected)


@every_case
def test_two_forward_passes_do_not_affect_each_other(case):
    cases = case, case._replace(arguments=deepcopy(case.arguments))
    for leaf in leaves(cases[1].arguments).values():
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f":
            leaf *= 1.5
    separate = []
    for each in cases:
        value, pullback, dy, _ = evaluate(each)
        separate.append((value.copy(), deepcopy(pullback(dy))))
    interleaved = [evaluate(each) for each in cases]
    for (value, pullback, dy, _), expected in zip(interleaved, separate, strict=True):
        assert same_results((value, pullback(dy)), expected)


@pytest.fixture
def no_garbage_collector():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collector")
@every_case
def test_retained_arrays_are_freed_with_the_pullback(case):
    arguments = deepcopy(case.arguments)
    value, pullback = case.function(*arguments)
    pullback(np.ones_like(value))
    references = [weakref.ref(a) for a in (pullback, *list_retained(pullback).values())]
    del arguments, value, pullback
    assert not any(reference() is not None for reference in references), "a reference cycle"
