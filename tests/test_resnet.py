"""The hybrid of Section 3.1: its stem against loops, and whole models against the authors' code."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.on_device import xp
from test_layers import convolution_in_loops, max_pool_in_loops

from minivit import ViT, ViTConfig, flatten
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
from minivit.tree import count_parameters, map_tree, unflatten

TINY = {
    "channels": 2, "classes": 3, "width": 8, "depth": 2, "heads": 2, "mlp_width": 7,
    "stem_width": 32,
}  # fmt: skip


def tiny(stem=(1, 1), image_size=(15, 22), **fields):
    fields = {"patch_size": 1, "image_size": image_size, **fields}
    return ViTConfig(**TINY | {"stem": stem} | fields)


def some_images(config, batch=2):
    size = (batch, *config.image_size, config.channels)
    return np.random.default_rng(0).normal(size=size)


def params_of(config):
    return perturb(initialise(config, dtype="float64"), np.random.default_rng(1))


# --- sizes -----------------------------------------------------------------------------------

#   name, 1000 classes, 21843 classes, 21843 with a hidden head of D
COUNTS = [
    ("R+ViT-Ti/16", 6_337_704, 10_360_403, 10_397_459),
    ("R26+ViT-S/32", 36_431_912, 44_456_467, 44_604_307),
    ("R26+ViT-B/32", 101_383_976, 117_412_243, 118_002_835),
    ("R50+ViT-B/16", 98_659_112, 114_687_379, 115_277_971),
    ("R50+ViT-L/32", 328_994_856, 350_358_931, 351_408_531),
]


@pytest.mark.parametrize(("name", "k1000", "k21843", "hidden"), COUNTS)
def test_the_counts_of_the_authors_hybrids(name, k1000, k21843, hidden):
    def count_of(**fields):
        return parameter_count(ViTConfig.named(name, **fields))

    assert count_of() == k1000
    assert count_of(classes=21843) == k21843
    assert count_of(classes=21843, hidden_head=ViTConfig.named(name).width) == hidden


@pytest.mark.parametrize(
    ("stem", "expected", "channels"),
    [
        ((), 7 * 7 * 3 * 64 + 2 * 64, 64),
        ((2, 2, 2, 2), 13_946_176, 2048),
        ((3, 4, 9), 11_894_848, 1024),
        ((3, 4, 6, 3), 23_508_032, 2048),
    ],
)
def test_the_counts_of_the_stems_alone(stem, expected, channels):
    config = ViTConfig(stem=stem, patch_size=1)
    shapes = flatten(parameter_specs(config)["stem"]).values()
    assert sum(np.prod(p.shape, dtype=int) for p in shapes) == expected
    assert config.feature_channels == channels
    assert parameter_specs(config)["patch_embedding"]["kernel"].shape == (channels, 768)


@pytest.mark.parametrize(
    ("name", "stride", "grid", "width"),
    [
        ("R+ViT-Ti/16", 32, (7, 7), 192),  # the authors' name for it, and their stride
        ("R26+ViT-S/32", 32, (7, 7), 384),
        ("R26+ViT-B/32", 32, (7, 7), 768),
        ("R50+ViT-B/16", 16, (14, 14), 768),
        ("R50+ViT-L/32", 32, (7, 7), 1024),
    ],
)
def test_a_hybrid_has_the_grid_of_its_total_stride(name, stride, grid, width):
    config = ViTConfig.named(name)
    assert (config.stride, config.grid, config.width) == (stride, grid, width)
    assert config.tokens == grid[0] * grid[1] + 1
    assert parameter_specs(config)["positions"]["table"].shape == (config.tokens, width)


def test_the_stride_of_a_plain_model_is_its_patch():
    config = ViTConfig.named("ViT-S/32")
    assert (config.stem, config.stride, config.grid) == (None, 32, (7, 7))
    assert (config.feature_map, config.feature_channels) == ((224, 224), 3)


@pytest.mark.parametrize(
    ("stem", "patch_size", "image_size", "feature_map"),
    [
        ((), 2, (16, 24), (4, 6)),
        ((), 1, (15, 22), (4, 6)),
        ((1,), 1, (15, 22), (4, 6)),
        ((1, 1), 1, (15, 22), (2, 3)),
        ((2, 1), 2, (16, 32), (2, 4)),
        ((1, 1, 1), 1, (33, 31), (3, 2)),
        ((1, 1, 1, 1), 1, (33, 64), (2, 2)),
    ],
)
def test_the_map_is_as_large_as_the_configuration_says(stem, patch_size, image_size, feature_map):
    config = tiny(stem, image_size, patch_size=patch_size)
    params = initialise(config)
    features, _ = resnet_stem(some_images(config).astype("float32"), params["stem"])
    assert config.feature_map == feature_map
    assert features.shape == (2, *feature_map, config.feature_channels)
    gh, gw = config.grid
    assert (gh * patch_size, gw * patch_size) == feature_map
    seen = {}
    infer(some_images(config).astype("float32"), params, config, watch=seen.__setitem__)
    assert seen["blocks/0/output"].shape == (2, gh * gw + 1, 8)


def test_a_configuration_survives_json():
    config = tiny((2, 1), (16, 24))
    again = ViTConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    assert again.stem == (2, 1)
    root_alone = tiny((), (16, 24))
    assert ViTConfig(**json.loads(json.dumps(dataclasses.asdict(root_alone)))).stem == ()


BAD_FIELDS = [
    ({"stem": 3}, "stem is the units of each stage, like (3, 4, 9), not 3"),
    ({"stem": "34"}, "stem is the units of each stage, like (3, 4, 9), not '34'"),
    ({"stem": (1, 0)}, "the units of a stem's stage is a whole number from 1 up, not 0"),
    ({"stem": (1, 2.0)}, "the units of a stem's stage is a whole number from 1 up, not 2.0"),
    ({"stem_width": 48}, "stem_width 48 cannot be shared among 32 groups"),
    ({"stem_width": 0}, "stem_width is a whole number from 1 up, not 0"),
    (
        {"patch_size": 2},
        "image_size 15 x 22 makes a feature map of 2 x 3, which cannot be cut into patches of "
        "2 x 2",
    ),
    ({"qkv_bias": 1}, "qkv_bias is True or False, not 1"),
    ({"patch_bias": None}, "patch_bias is True or False, not None"),
    ({"preprocessing": "keras"}, "unknown preprocessing 'keras': choose minivit, google, timm,"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS, ids=str)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the message is compared below
        tiny(**{"stem": (1, 1), **fields})
    assert message in str(error.value)


def test_a_plain_model_may_have_any_stem_width():
    assert ViTConfig(stem_width=48).stem is None


# --- the tree --------------------------------------------------------------------------------


def test_the_tree_of_a_stem():
    config = ViTConfig(stem=(2, 1), patch_size=1)
    shapes = {name: p.shape for name, p in flatten(parameter_specs(config)["stem"]).items()}
    expected = {"conv/kernel": (7, 7, 3, 64), "norm/scale": (64,), "norm/bias": (64,)}
    units = {"0/0": (64, 64, True), "0/1": (256, 64, False), "1/0": (256, 128, True)}
    for unit, (entering, f, first) in units.items():
        sides = {"1": (1, entering, f), "2": (3, f, f), "3": (1, f, 4 * f)}
        if first:
            sides["_shortcut"] = (1, entering, 4 * f)
        for which, (side, C, E) in sides.items():
            expected[f"stages/{unit}/conv{which}/kernel"] = (side, side, C, E)
            expected[f"stages/{unit}/norm{which}/scale"] = (E,)
            expected[f"stages/{unit}/norm{which}/bias"] = (E,)
    assert shapes == expected


def test_the_root_alone_has_no_stages():
    assert set(parameter_specs(tiny((), (16, 24)))["stem"]) == {"conv", "norm"}


@pytest.mark.parametrize("stem", [(), (1,), (2, 1)])
def test_the_gradients_are_a_tree_of_the_parameters_shape(stem):
    config = tiny(stem)
    params = params_of(config)
    logits, pullback = vit(some_images(config), params, config)
    dimages, dparams = pullback(logits)
    shapes = {name: leaf.shape for name, leaf in flatten(params).items()}
    assert {name: leaf.shape for name, leaf in flatten(dparams).items()} == shapes
    assert dimages.shape == some_images(config).shape
    assert count_parameters(params) == parameter_count(config)


def test_a_new_unit_hands_on_what_its_shortcut_brings():
    # The last norm's scale starts at zero, so a unit begins as little more than nothing.
    unit = initialise(tiny((2,), (16, 24)), dtype="float64")["stem"]["stages"][0][1]
    x = np.random.default_rng(3).normal(size=(2, 4, 6, 128))
    np.testing.assert_array_equal(bottleneck(x, unit)[0], np.maximum(x, 0))


# --- forward, in loops -----------------------------------------------------------------------


def standardised(kernel):
    flat = kernel.reshape(-1, kernel.shape[-1])
    columns = [(w - w.mean()) / (w.std() + 1e-5) for w in flat.T]
    return np.stack(columns, axis=-1).reshape(kernel.shape)


def group_normed(x, scale, bias):
    out = np.empty_like(x)
    size = x.shape[-1] // 32
    for b in range(len(x)):
        for g in range(0, x.shape[-1], size):
            group = x[b, :, :, g : g + size]
            out[b, :, :, g : g + size] = (group - group.mean()) / np.sqrt(group.var() + 1e-6)
    return out * scale + bias


def normed_convolution(x, params, which, stride=1):
    kernel = standardised(params[f"conv{which}"]["kernel"])
    return group_normed(convolution_in_loops(x, kernel, stride), **params[f"norm{which}"])


def unit_in_loops(x, params, stride):
    h = np.maximum(normed_convolution(x, params, "1"), 0)
    h = np.maximum(normed_convolution(h, params, "2", stride), 0)
    h = normed_convolution(h, params, "3")
    if "conv_shortcut" in params:
        x = normed_convolution(x, params, "_shortcut", stride)
    return np.maximum(x + h, 0)


def test_the_stem_in_loops():
    config = tiny((2, 1), (13, 18))
    images, params = some_images(config, batch=2), params_of(config)["stem"]
    x = np.maximum(normed_convolution(images, params, "", stride=2), 0)
    x = max_pool_in_loops(x, 3, 2)
    (first, second), (third,) = params["stages"]
    x = unit_in_loops(unit_in_loops(x, first, 1), second, 1)
    x = unit_in_loops(x, third, 2)
    found, _ = resnet_stem(images, params)
    assert found.shape == (2, 2, 3, 256)
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-12 * abs(x).max())


@pytest.mark.parametrize("stem", [(), (2, 1)])
def test_watch_sees_the_map_grow(stem):
    config = tiny(stem, (16, 24))
    images, params, forward, inferred = some_images(config), params_of(config), {}, {}
    vit(images, params, config, watch=forward.__setitem__)
    infer(images, params, config, watch=inferred.__setitem__)
    names = {"stem/root"} | {
        f"stem/stages/{s}/{n}/output" for s, units in enumerate(stem) for n in range(units)
    }
    assert {name for name in forward if name.startswith("stem/")} == names
    for name in names:
        np.testing.assert_array_equal(forward[name], inferred[name])
    last = max(names)
    np.testing.assert_array_equal(forward[last], resnet_stem(images, params["stem"])[0])


def test_calling_a_hybrid_gives_the_logits_of_forward():
    config = tiny((2, 1), (16, 24))
    model = ViT(config, params_of(config))
    images = some_images(config, batch=5)
    logits, _ = model.forward(images)
    np.testing.assert_allclose(model(images), logits, rtol=0, atol=1e-12)
    assert abs(logits[0] - logits[1]).max() > 0.01


def test_a_constant_kernel_teaches_no_nans():
    # What was pruned to zero has deviation zero, and the quotient of its slope would be 0 / 0.
    config = tiny((1,), (16, 24))
    params = params_of(config)
    params["stem"]["stages"][0][0]["conv2"]["kernel"][..., 3] = 0
    logits, pullback = vit(some_images(config), params, config)
    assert all(np.isfinite(leaf).all() for leaf in flatten(pullback(logits)[1]).values())


# --- on a device -----------------------------------------------------------------------------


def uploaded(tree, dtype):
    return map_tree(lambda leaf: xp.asarray(leaf.astype(dtype)), tree)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stem", [(), (2, 1)])
def test_a_hybrid_on_a_device(stem, dtype):
    config = tiny(stem, (16, 24))
    images, params = some_images(config), params_of(config)
    logits, pullback = vit(images, params, config)
    dimages, dparams = pullback(logits)
    arrays = xp.asarray(images.astype(dtype)), uploaded(params, dtype)
    found, found_back = vit(*arrays, config)
    found_dimages, found_dparams = found_back(xp.asarray(logits.astype(dtype)))
    tolerance = {"float32": 1e-4, "float64": 1e-10}[dtype]
    pairs = {
        "logits": (found, logits),
        "inferred": (infer(*arrays, config), logits),
        "dimages": (found_dimages, dimages),
    }
    leaves = flatten(dparams)
    pairs |= {name: (leaf, leaves[name]) for name, leaf in flatten(found_dparams).items()}
    assert pairs.keys() >= leaves.keys()
    for name, (on_device, on_host) in pairs.items():
        assert on_device.dtype == dtype, name
        assert distance(on_device.get(), on_host) < tolerance, name


# --- without a classifier --------------------------------------------------------------------


@pytest.mark.parametrize("stem", [None, (1,)])
@pytest.mark.parametrize(("hidden_head", "width"), [(None, 8), (5, 5)])
def test_without_classes_a_model_gives_what_the_classifier_would_see(stem, hidden_head, width):
    fields = {"hidden_head": hidden_head, "patch_size": 2, "image_size": (16, 24)}
    whole, bare = tiny(stem, **fields), tiny(stem, **fields, classes=None)
    params = params_of(whole)
    without = {name: leaf for name, leaf in params.items() if name != "head"}
    assert flatten(without).keys() == flatten(parameter_specs(bare)).keys()
    images = some_images(whole)
    y = forward_features(images, params, whole)
    assert y.shape == (2, width)
    if hidden_head:
        assert abs(y).max() < 1
    np.testing.assert_array_equal(forward_features(images, without, bare), y)
    np.testing.assert_array_equal(infer(images, without, bare), y)
    np.testing.assert_allclose(vit(images, without, bare)[0], y, rtol=0, atol=1e-13)
    logits = y @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(infer(images, params, whole), logits, rtol=0, atol=1e-13)


@pytest.mark.parametrize("missing", ["qkv_bias", "patch_bias"])
def test_a_layer_without_bias_is_one_whose_bias_is_zero(missing):
    config = tiny(None, patch_size=2, image_size=(4, 6))
    bare = dataclasses.replace(config, **{missing: False})
    params = params_of(bare)
    names = flatten(parameter_specs(config)).keys() - flatten(params).keys()
    expected = {
        "qkv_bias": {"blocks/0/attention/qkv/bias", "blocks/1/attention/qkv/bias"},
        "patch_bias": {"patch_embedding/bias"},
    }
    assert names == expected[missing]
    shapes = flatten(parameter_specs(config))
    zeros = {name: np.zeros(shapes[name].shape) for name in names}
    images = some_images(config)
    logits, pullback = vit(images, unflatten(flatten(params) | zeros), config)
    found, bare_pullback = vit(images, params, bare)
    np.testing.assert_array_equal(found, logits)
    gradients = flatten(pullback(logits)[1])
    for name, leaf in flatten(bare_pullback(logits)[1]).items():
        np.testing.assert_array_equal(leaf, gradients[name])


# --- the authors' code -----------------------------------------------------------------------

DATA = os.environ.get("MINIVIT_TEST_DATA")
needs_fixture = pytest.mark.skipif(
    not DATA, reason="MINIVIT_TEST_DATA does not name the folder of test data"
)


def from_google(flat):
    """The authors' names and shapes, one hybrid's, as our tree."""
    renamed, qkv = {}, {}
    fixed = {
        "cls": "class_token", "embedding": "patch_embedding", "head": "head",
        "conv_root": "stem/conv", "gn_root": "stem/norm", "Transformer/encoder_norm": "norm",
        "Transformer/posembed_input/pos_embedding": "positions/table",
    }  # fmt: skip
    in_block = {
        "LayerNorm_0": "norm1", "LayerNorm_2": "norm2", "MlpBlock_3/Dense_0": "mlp/hidden",
        "MlpBlock_3/Dense_1": "mlp/out", "MultiHeadDotProductAttention_1/out": "attention/out",
    }  # fmt: skip
    for name, array in flat.items():
        path, _, leaf = name.rpartition("/")
        if name in fixed:
            renamed[fixed[name]] = array.reshape(array.shape[-2:] if "pos" in name else -1)
        elif path in fixed:
            shape = (-1, array.shape[-1]) if path == "embedding" and leaf == "kernel" else None
            shape = array.shape[-1:] if path == "gn_root" else shape or array.shape
            renamed[f"{fixed[path]}/{leaf}"] = array.reshape(shape)
        elif name.startswith("block"):
            block, unit, layer, leaf = name.split("/")
            layer = layer.replace("gn", "norm").replace("_proj", "_shortcut")
            path = f"stem/stages/{int(block[5:]) - 1}/{int(unit[4:]) - 1}/{layer}/{leaf}"
            renamed[path] = array.reshape(-1) if layer.startswith("norm") else array
        else:
            _, block, path = path.split("/", 2)
            block = f"blocks/{block.removeprefix('encoderblock_')}"
            if path.endswith(("query", "key", "value")):
                array = array.reshape(len(array), -1) if leaf == "kernel" else array.reshape(-1)
                qkv.setdefault(f"{block}/attention/qkv/{leaf}", {})[path.rpartition("/")[2]] = array
            else:
                out = path.endswith("/out") and leaf == "kernel"
                shape = (-1, array.shape[-1]) if out else array.shape
                renamed[f"{block}/{in_block[path]}/{leaf}"] = array.reshape(shape)
    for name, three in qkv.items():
        renamed[name] = np.concatenate([three[key] for key in ("query", "key", "value")], axis=-1)
    return unflatten(renamed)


def the_authors_hybrid():
    folder = Path(DATA) / "fixtures" / "google"
    with np.load(folder / "hybrid.npz") as file:
        params = from_google(dict(file))
    with np.load(folder / "hybrid.expected.npz") as file:
        expected = dict(file)
    config = ViTConfig(
        image_size=32, patch_size=1, classes=5, width=24, depth=2, heads=3, mlp_width=32,
        stem=(1, 1), stem_width=32,
    )  # fmt: skip
    return config, params, expected


def distance(found, reference):
    """The norm of the difference over that of the reference, or over 1e-3 if that is larger."""
    return np.linalg.norm(found - reference) / max(np.linalg.norm(reference), 1e-3)


@needs_fixture
def test_a_hybrid_of_the_authors():
    config, params, expected = the_authors_hybrid()
    shapes = {name: leaf.shape for name, leaf in flatten(params).items()}
    assert shapes == {name: p.shape for name, p in flatten(parameter_specs(config)).items()}
    logits, pullback = vit(expected["images"], params, config)
    assert logits.dtype == np.float32
    reference = expected["logits"]
    assert abs(logits - reference).max() <= 2e-6 * abs(reference).max()
    dimages, dparams = pullback(expected["dlogits"])
    gradients = {name: a for name, a in expected.items() if name.startswith("grad/")}
    wanted = flatten(from_google({name[5:]: a for name, a in gradients.items()}))
    found = flatten(dparams)
    assert found.keys() == wanted.keys()
    errors = {name: distance(found[name], wanted[name]) for name in found}
    errors["images"] = distance(dimages, expected["dimages"])
    assert max(errors.values()) <= 1e-5, errors
