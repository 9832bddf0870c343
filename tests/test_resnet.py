"""The hybrid of section 3.1: sizes, and the stem compared with loops.

`test_fixtures.py` compares a complete hybrid with the authors' code.
"""

import dataclasses

import numpy as np
import pytest
from helpers.loops import (
    convolution_in_loops,
    group_norm_in_loops,
    max_pool_in_loops,
    standardise_in_loops,
)

from minivit import ViTConfig, flatten
from minivit.checking.cases import perturb
from minivit.models import (
    bottleneck,
    forward_features,
    infer,
    initialise,
    parameter_count,
    parameter_specs,
    resnet_stem,
    vit,
)
from minivit.tree import unflatten

TINY = {
    "channels": 2, "classes": 3, "width": 8, "depth": 2, "heads": 2, "mlp_width": 7,
    "stem_width": 32,
}  # fmt: skip


def tiny(stem=(1, 1), image_size=(15, 22), **fields):
    fields = {"patch_size": 1, "image_size": image_size, **fields}
    return ViTConfig(**TINY | {"stem": stem} | fields)


def random_images(config, batch=2):
    return np.random.default_rng(0).normal(size=(batch, *config.image_size, config.channels))


def random_params(config):
    return perturb(initialise(config, dtype="float64"), np.random.default_rng(1))


@pytest.mark.parametrize(
    ("name", "stride", "grid", "counts"),
    [  # parameters for 1000 classes, for 21843, and for 21843 with a hidden layer of width D
        ("R+ViT-Ti/16", 32, (7, 7), (6_337_704, 10_360_403, 10_397_459)),  # the authors' name
        ("R26+ViT-S/32", 32, (7, 7), (36_431_912, 44_456_467, 44_604_307)),
        ("R26+ViT-B/32", 32, (7, 7), (101_383_976, 117_412_243, 118_002_835)),
        ("R50+ViT-B/16", 16, (14, 14), (98_659_112, 114_687_379, 115_277_971)),
        ("R50+ViT-L/32", 32, (7, 7), (328_994_856, 350_358_931, 351_408_531)),
    ],
)
def test_the_hybrids_have_the_sizes_of_the_authors_models(name, stride, grid, counts):
    config = ViTConfig.named(name)
    assert (config.stride, config.grid) == (stride, grid)
    assert config.tokens == grid[0] * grid[1] + 1
    assert parameter_specs(config)["positions"]["table"].shape == (config.tokens, config.width)
    pretraining = dataclasses.replace(config, classes=21843)
    hidden = dataclasses.replace(pretraining, hidden_head=config.width)
    assert tuple(map(parameter_count, (config, pretraining, hidden))) == counts


@pytest.mark.parametrize(
    ("stem", "patch_size", "image_size", "feature_map"),
    [
        ((), 2, (16, 24), (4, 6)),
        ((), 1, (15, 22), (4, 6)),
        ((1,), 1, (15, 22), (4, 6)),
        ((1, 1), 1, (15, 22), (2, 3)),
        ((1, 2), 2, (16, 32), (2, 4)),
        ((1, 1, 1), 1, (33, 31), (3, 2)),
        ((1, 1, 1, 1), 1, (33, 64), (2, 2)),
    ],
)
def test_the_feature_map_has_the_size_of_the_configuration(
    stem, patch_size, image_size, feature_map
):
    config = tiny(stem, image_size, patch_size=patch_size)
    images, params, seen = random_images(config).astype("float32"), initialise(config), {}
    features, _ = resnet_stem(images, params["stem"])
    assert config.feature_map == feature_map
    assert features.shape == (2, *feature_map, config.feature_channels)
    gh, gw = config.grid
    assert (gh * patch_size, gw * patch_size) == feature_map
    infer(images, params, config, watch=seen.__setitem__)
    assert seen["blocks/0/output"].shape == (2, gh * gw + 1, 8)


def conv_norm_in_loops(x, params, suffix, stride=1):
    kernel = standardise_in_loops(params[f"conv{suffix}"]["kernel"])
    return group_norm_in_loops(convolution_in_loops(x, kernel, stride), **params[f"norm{suffix}"])


def bottleneck_in_loops(x, params, stride):
    h = np.maximum(conv_norm_in_loops(x, params, "1"), 0)
    h = np.maximum(conv_norm_in_loops(h, params, "2", stride), 0)
    h = conv_norm_in_loops(h, params, "3")
    if "conv_shortcut" in params:
        x = conv_norm_in_loops(x, params, "_shortcut", stride)
    return np.maximum(x + h, 0)


def test_the_stem_equals_the_loops():
    config = tiny((2, 2), (13, 18))
    images, params = random_images(config), random_params(config)["stem"]
    x = max_pool_in_loops(np.maximum(conv_norm_in_loops(images, params, "", stride=2), 0), 3, 2)
    (first, second), (third, fourth) = params["stages"]
    x = bottleneck_in_loops(bottleneck_in_loops(x, first, 1), second, 1)
    x = bottleneck_in_loops(bottleneck_in_loops(x, third, 2), fourth, 1)
    features, _ = resnet_stem(images, params)
    assert features.shape == (2, 2, 3, 256)
    np.testing.assert_allclose(features, x, rtol=0, atol=1e-12 * abs(x).max())


def test_a_new_unit_is_a_relu_of_its_input():
    # The scale of the last norm is initialised to zero.
    unit = initialise(tiny((2,), (16, 24)), dtype="float64")["stem"]["stages"][0][1]
    x = np.random.default_rng(3).normal(size=(2, 4, 6, 128))
    np.testing.assert_array_equal(bottleneck(x, unit)[0], np.maximum(x, 0))


@pytest.mark.parametrize("stem", [(), (2, 1)])
def test_watch_receives_the_output_of_every_unit(stem):
    config = tiny(stem, (16, 24))
    images, params, forward, inference = random_images(config), random_params(config), {}, {}
    vit(images, params, config, watch=forward.__setitem__)
    infer(images, params, config, watch=inference.__setitem__)
    units = [f"stages/{s}/{n}/output" for s, count in enumerate(stem) for n in range(count)]
    names = [f"stem/{name}" for name in ("root", *units)]
    assert [name for name in forward if name.startswith("stem/")] == names
    for name in names:
        np.testing.assert_array_equal(forward[name], inference[name])
    features, _ = resnet_stem(images, params["stem"])
    np.testing.assert_array_equal(forward[names[-1]], features)


def test_constant_weights_have_finite_gradients():
    # A pruned channel has standard deviation zero, by which the pullback must not divide.
    config = tiny((1,), (16, 24))
    params = random_params(config)
    params["stem"]["stages"][0][0]["conv2"]["kernel"][..., 3] = 0
    logits, pullback = vit(random_images(config), params, config)
    assert all(np.isfinite(leaf).all() for leaf in flatten(pullback(logits)[1]).values())


@pytest.mark.parametrize("stem", [None, (1,)])
@pytest.mark.parametrize(("hidden_head", "width"), [(None, 8), (5, 5)])
def test_without_classes_a_model_returns_the_input_of_the_classifier(stem, hidden_head, width):
    fields = {"hidden_head": hidden_head, "patch_size": 2, "image_size": (16, 24)}
    config, bare = tiny(stem, **fields), tiny(stem, **fields, classes=None)
    images, params = random_images(config), random_params(config)
    without_head = {name: leaf for name, leaf in params.items() if name != "head"}
    assert flatten(without_head).keys() == flatten(parameter_specs(bare)).keys()
    y = forward_features(images, params, config)
    assert y.shape == (2, width)
    if hidden_head:
        assert abs(y).max() < 1  # the hidden layer ends with tanh
    np.testing.assert_array_equal(forward_features(images, without_head, bare), y)
    np.testing.assert_array_equal(infer(images, without_head, bare), y)
    np.testing.assert_allclose(vit(images, without_head, bare)[0], y, rtol=0, atol=1e-13)
    logits = y @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(infer(images, params, config), logits, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("qkv_bias", {"blocks/0/attention/qkv/bias", "blocks/1/attention/qkv/bias"}),
        ("patch_bias", {"patch_embedding/bias"}),
    ],
)
def test_a_layer_without_a_bias_equals_one_whose_bias_is_zero(field, names):
    config = tiny(None, patch_size=2, image_size=(4, 6))
    bare = dataclasses.replace(config, **{field: False})
    images, params = random_images(config), random_params(bare)
    specs = flatten(parameter_specs(config))
    assert specs.keys() - flatten(params).keys() == names
    zeros = {name: np.zeros(specs[name].shape) for name in names}
    logits, pullback = vit(images, unflatten(flatten(params) | zeros), config)
    bare_logits, bare_pullback = vit(images, params, bare)
    np.testing.assert_array_equal(bare_logits, logits)
    gradients = flatten(pullback(logits)[1])
    for name, leaf in flatten(bare_pullback(logits)[1]).items():
        np.testing.assert_array_equal(leaf, gradients[name])
