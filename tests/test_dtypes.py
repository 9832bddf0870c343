"""Every layer returns the dtype of its input. float16 results are rounded float32 results.

float16 has 11 significant bits, and its largest value is 65,504. The layers compute in float32, so
that intermediate results neither lose digits nor overflow.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.on_device import assert_close, run_layer

from minivit import ViT, data, layers
from minivit.checking.cases import layer_cases
from minivit.tree import map_tree

ROUNDING = 2.0**-11  # the largest relative error of rounding to float16
SUBNORMAL = 2.0**-24  # the smallest positive float16
COMPOSITE = (  # these round intermediate results to float16, so that several errors add up
    "attend", "single_head_attention", "self_attention", "mlp", "encoder_block", "bottleneck",
)  # fmt: skip
CASES = {case.name: case for case in layer_cases() if case.name != "standardise, small weights"}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex128"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_have_the_dtype_of_the_input(name, dtype):
    arrays = run_layer(CASES[name].function, CASES[name].arguments, dtype)
    assert {name: array.dtype for name, array in arrays.items()} == dict.fromkeys(arrays, dtype)


def assert_rounded(function, arguments, roundings):
    """Assert that float16 results agree with float32, up to this number of roundings."""
    expected = run_layer(function, arguments, "float32", rounded="float16")
    actual = run_layer(function, arguments, "float16")
    assert all(np.isfinite(array).all() for array in actual.values())
    tolerance = roundings * ROUNDING
    assert_close(actual, expected, "float16", tolerance, floor=SUBNORMAL / ROUNDING)


@pytest.mark.parametrize("name", CASES)
def test_float16_agrees_with_float32(name):
    roundings = 20 if name.startswith(COMPOSITE) else 3
    assert_rounded(CASES[name].function, CASES[name].arguments, roundings)


def draw(scale, *shape):
    return scale * np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("kind", ["tanh", "erf"])
def test_gelu_rounds_every_entry_once(kind):
    x = np.array([-60000.0, -256, -40, -6, -1, -0.0, 0, 1, 6, 40, 256, 60000])
    expected = run_layer(layers.gelu, (x, kind), "float32", rounded="float16")
    for name, array in run_layer(layers.gelu, (x, kind), "float16").items():
        tolerance = {"rtol": ROUNDING, "atol": SUBNORMAL}
        np.testing.assert_allclose(array.astype("float32"), expected[name], **tolerance)


vector = draw(1, 768)
q_k_v = draw(10, 2, 197, 64), draw(10, 2, 197, 64), draw(100, 2, 197, 64)
LARGE_INPUTS = {
    "layer_norm": (draw(300, 3, 768), vector, vector),
    "layer_norm, far from 0": (300 + draw(1, 3, 768), vector, vector),
    "group_norm": (draw(300, 2, 9, 9, 64), vector[:64], vector[:64]),
    "softmax": (draw(10000, 4, 197),),
    "softmax, equal scores": (np.full((2, 197), 60000.0),),
    "cross_entropy": (draw(5000, 4, 10), np.arange(4), 0.1),
    "cross_entropy, large batch": (draw(20, 5000, 10), np.zeros(5000, int)),
    "mean_pool": (draw(300, 2, 577, 5),),
    "linear": (draw(30, 2, 300, 768), draw(0.1, 768, 3), draw(100, 3)),
    "attend": q_k_v,
}


@pytest.mark.parametrize("name", LARGE_INPUTS)
def test_float16_agrees_with_float32_on_large_inputs(name):
    function = getattr(layers, name.partition(",")[0])
    assert_rounded(function, LARGE_INPUTS[name], roundings=4 if name == "attend" else 2)


# --- a trained model ------------------------------------------------------------------------

FOLDER = os.environ.get("MINIVIT_TEST_DATA")


@pytest.mark.skipif(not FOLDER, reason="MINIVIT_TEST_DATA does not name the folder of test data")
def test_float16_classifies_photographs_like_float32():
    folder = Path(FOLDER or "")
    model = ViT.load(folder / "vit-tiny-imagenet" / "vit_tiny_patch16_224.npz")
    size = model.config.image_size
    preprocessing = dataclasses.replace(data.get_preprocessing("timm", size), short_side=256)
    photographs = sorted((folder / "photos").glob("*.png"))
    images = np.stack([data.read_image(path, size, 3, preprocessing) for path in photographs])
    half = ViT(model.config, map_tree(lambda p: p.astype("float16"), model.params))
    expected, actual = model(images), half(images)  # logits up to 15.7
    assert actual.dtype == "float16"
    assert np.array_equal(actual.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.03)
