"""GELU: published values, accuracy in both precisions, extreme arguments; the MLP."""

import math

import numpy as np
import pytest

from minivit import layers

KINDS = pytest.mark.parametrize("kind", ["tanh", "erf"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])

VALUES = {  # x: exact, tanh
    -3.0: (-0.0040497, -0.0036374), -2.0: (-0.0455003, -0.0454023),
    -1.0: (-0.1586553, -0.1588080), -0.5: (-0.1542688, -0.1542860),
    +0.5: (+0.3457312, +0.3457140), +1.0: (+0.8413447, +0.8411920),
    +2.0: (+1.9544997, +1.9545977), +3.0: (+2.9959503, +2.9963626),
}  # fmt: skip
DERIVATIVES = {
    -2.0: (-0.0852318, -0.0860993), -1.0: (-0.0833155, -0.0829641), +0.5: (0.8674951, 0.8673699),
    +1.0: (+1.0833155, +1.0829641), +2.0: (+1.0852318, +1.0860993),
}  # fmt: skip


def test_gelu_has_the_published_values_and_derivatives():
    for column, kind in enumerate(("erf", "tanh")):
        y, _ = layers.gelu(np.array([*VALUES]), kind)
        expected = np.array([*VALUES.values()])[:, column]
        np.testing.assert_allclose(y, expected, rtol=0, atol=6e-8)
        _, pullback = layers.gelu(np.array([*DERIVATIVES]), kind)
        expected = np.array([*DERIVATIVES.values()])[:, column]
        np.testing.assert_allclose(pullback(np.ones(5)), expected, rtol=0, atol=6e-8)


def test_the_default_is_the_tanh_form_of_the_authors():
    x = np.linspace(-9, 9, 401)
    t = [math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)) for v in x]
    np.testing.assert_allclose(layers.gelu(x)[0], 0.5 * x * (1 + np.array(t)), 1e-13, 1e-13)
    assert np.array_equal(layers.gelu(x)[0], layers.gelu(x, "tanh")[0])


def test_the_erf_form_is_exact_in_float64():
    rng = np.random.default_rng(0)
    special = [0.0, 1e4, -1e4, 1e-300]
    x = np.concatenate([np.linspace(-40, 40, 8001), rng.normal(size=8000) * 3, special])
    cdf = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    density = np.array([math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in x])
    y, pullback = layers.gelu(x, "erf")
    tolerance = 4e-15 * np.maximum(1, abs(x))
    assert (abs(y - x * cdf) <= tolerance).all()
    assert (abs(pullback(np.ones_like(x)) - cdf - x * density) <= tolerance).all()


@KINDS
def test_float32_is_accurate_to_its_rounding_error(kind):
    rng = np.random.default_rng(0)
    large = np.geomspace(1e-30, 1e4, 200_001)
    dense = rng.normal(size=800_000) * 3
    x = np.concatenate([dense, rng.uniform(-12, 12, 1_000_000), large, -large]).astype("float32")
    ones = np.ones(x.shape, "float32")
    y, pullback = layers.gelu(x, kind)
    exact, exact_back = layers.gelu(x.astype("float64"), kind)
    magnitude = np.maximum(1, abs(x.astype("float64")))
    assert y.dtype == "float32"
    assert (abs(y - exact) <= 2e-7 * magnitude).all()
    assert (abs(pullback(ones) - exact_back(ones)) <= 3e-7 * magnitude).all()


@DTYPES
@KINDS
def test_gelu_of_large_arguments_is_x_or_zero(kind, dtype):
    x = np.array([1e4, -1e4, 1e19, -1e19], dtype)  # in float32, x³ overflows
    y, pullback = layers.gelu(x, kind)
    assert (abs(y - np.maximum(x, 0)) <= 1e-15 * abs(x)).all()
    np.testing.assert_allclose(pullback(np.ones(4, dtype)), [1, 0, 1, 0], rtol=0, atol=1e-15)


@DTYPES
@KINDS
def test_the_derivative_at_zero_is_one_half(kind, dtype):
    # The pullback obtains Φ as y / x, which is 0 / 0 here.
    x = np.array([0.0, -0.0, 1e-300 if dtype == "float64" else 1e-30], dtype)
    _, pullback = layers.gelu(x, kind)
    assert pullback(np.ones(3, dtype)).tolist() == [0.5, 0.5, 0.5]


@KINDS
def test_the_result_does_not_depend_on_the_blocks(kind):
    x = np.random.default_rng(0).normal(size=(3, 50_001))  # more than two blocks of map_blocks
    y, pullback = layers.gelu(x, kind)
    rows = [layers.gelu(row, kind) for row in x]
    close = np.testing.assert_allclose
    close(y, [value for value, _ in rows], 1e-15, 1e-15)
    close(pullback(x), [back(row) for row, (_, back) in zip(x, rows, strict=True)], 1e-15, 1e-15)
    close(layers.gelu(x.T, kind)[0], y.T, 1e-15, 1e-15)  # not contiguous


def test_an_unknown_gelu_is_rejected():
    with pytest.raises(ValueError, match="unknown GELU 'quick': choose 'tanh' or 'erf'"):
        layers.gelu(np.zeros(3), "quick")


@KINDS
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_the_mlp_is_two_linear_layers_with_a_gelu_and_dropout_after_each(kind, rate):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4))
    hidden, out = (
        {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[1])}
        for shape in ((4, 7), (7, 4))
    )
    generator = np.random.default_rng(5)
    a, _ = layers.gelu(x @ hidden["kernel"] + hidden["bias"], kind)
    a, _ = layers.dropout(a, rate, generator)
    expected, _ = layers.dropout(a @ out["kernel"] + out["bias"], rate, generator)
    y, _ = layers.mlp(x, hidden, out, kind, rate, np.random.default_rng(5))
    np.testing.assert_allclose(y, expected, 1e-13, 1e-13)
