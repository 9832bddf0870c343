"""Dropout and drop path: rates, seeds, gradients, and their places in the model."""

import math

import numpy as np
import pytest

from minivit import ViTConfig, layers
from minivit.checking.cases import perturb
from minivit.models import initialise, vit

LAYERS = pytest.mark.parametrize("layer", [layers.dropout, layers.drop_path])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@LAYERS
def test_entries_are_dropped_at_the_rate_and_the_others_are_scaled(layer, rate, dtype):
    x = 1 + np.random.default_rng(1).random((20_000, 2, 3)).astype(dtype)
    y, pullback = layer(x, rate, np.random.default_rng(0))
    dropped = y == 0
    if layer is layers.drop_path:  # entire images
        assert np.array_equal(dropped.all((1, 2)), dropped.any((1, 2)))
        dropped = dropped[:, 0, 0]
    assert abs(dropped.mean() - rate) < 5 * math.sqrt(rate * (1 - rate) / dropped.size)
    np.testing.assert_allclose(y[y != 0], x[y != 0] / (1 - rate), rtol=1e-6)
    assert np.array_equal(pullback(x), y)  # the gradient has the same mask


@LAYERS
def test_the_generator_determines_the_mask(layer):
    x = np.ones((20, 20))
    first, again, other = (layer(x, 0.5, np.random.default_rng(seed))[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("rate", "generator"), [(0.5, None), (0.0, np.random.default_rng(0))])
@LAYERS
def test_without_a_generator_or_at_rate_0_the_layer_is_inactive(layer, rate, generator):
    x = np.ones((20, 2, 3))
    y, pullback = layer(x, rate, generator)
    assert y is x
    assert pullback(x) is x


@pytest.mark.parametrize("generator", [None, np.random.default_rng(0)])
@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
@LAYERS
def test_an_invalid_rate_is_rejected(layer, rate, generator):
    with pytest.raises(ValueError, match=r"the dropout rate must be in \[0, 1\), not"):
        layer(np.ones((2, 3)), rate, generator)


def test_the_dropout_of_self_attention_follows_the_output_projection():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 4, 6))
    qkv, out = ({"kernel": rng.normal(size=(6, E)), "bias": rng.normal(size=E)} for E in (18, 6))
    projected, _ = layers.self_attention(z, qkv, out, 2)
    expected, _ = layers.dropout(projected, 0.4, np.random.default_rng(5))
    y, _ = layers.self_attention(z, qkv, out, 2, rate=0.4, generator=np.random.default_rng(5))
    assert np.array_equal(y, expected)


def test_the_drop_path_rate_increases_linearly_from_the_first_to_the_last_block():
    config = ViTConfig(depth=5, drop_path=0.4)
    rates = [config.drop_path_of_block(i) for i in range(5)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-15)
    assert ViTConfig(depth=1, drop_path=0.4).drop_path_of_block(0) == 0


def test_each_block_drops_its_branches_at_its_own_rate():
    config = ViTConfig(
        image_size=4, patch_size=2, channels=1, classes=3, width=4, depth=3, heads=2, mlp_width=6,
        drop_path=0.8,
    )  # fmt: skip
    params = perturb(initialise(config, dtype="float64"), np.random.default_rng(0))
    images, active, inactive = np.random.default_rng(1).normal(size=(2000, 4, 4, 1)), {}, {}
    vit(images, params, config, np.random.default_rng(5), watch=active.__setitem__)
    vit(images, params, config, watch=inactive.__setitem__)
    assert np.array_equal(active["blocks/0/output"], inactive["blocks/0/output"])  # its rate is 0
    for i, rate in ((1, 0.4), (2, 0.8)):
        z, out = active[f"blocks/{i - 1}/output"], active[f"blocks/{i}/output"]
        # Both branches are dropped, independently of each other.
        unchanged = (out == z).all((1, 2)).mean()
        assert abs(unchanged - rate**2) < 5 * math.sqrt(rate**2 * (1 - rate**2) / len(z))
    outputs = [inactive[f"blocks/{i}/output"] for i in (1, 2)]
    assert not (outputs[0] == outputs[1]).all((1, 2)).any()
