"""The layers of the hybrid's ResNet, compared with loops."""

import numpy as np
import pytest
from helpers.loops import (
    convolution_in_loops,
    group_norm_in_loops,
    max_pool_in_loops,
    same_windows,
    standardise_in_loops,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from minivit import layers
from minivit.layers.convolution import extract_windows
from minivit.layers.padding import same_padding

fuzzed = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


@pytest.mark.parametrize(
    ("n", "side", "stride", "windows", "before", "after"),
    [
        (224, 7, 2, 112, 2, 3),  # the root at the usual image size
        (225, 7, 2, 113, 3, 3),
        (112, 3, 2, 56, 0, 1),  # max pooling, and the 3 x 3 convolution of a stage's first unit
        (113, 3, 2, 57, 1, 1),
        (56, 3, 1, 56, 1, 1),
        (56, 1, 1, 56, 0, 0),
        (56, 1, 2, 28, 0, 0),
        (55, 1, 2, 28, 0, 0),
        (1, 7, 2, 1, 3, 3),
        (2, 7, 2, 1, 2, 3),
        (6, 2, 1, 6, 0, 1),
    ],
)
def test_same_padding_matches_tensorflow(n, side, stride, windows, before, after):
    assert same_windows(n, side, stride) == (windows, before, after)
    assert same_padding(n, side, stride) == (before, after)
    x, kernel = np.ones((1, n, 1, 1)), np.ones((side, 1, 1, 1))
    y = layers.convolution(x, kernel, stride)[0][0, :, 0, 0]
    starts = [stride * i - before for i in range(windows)]
    # With ones everywhere, the result is the number of entries of the window inside the image.
    assert y.tolist() == [min(start + side, n) - max(start, 0) for start in starts]


@fuzzed
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3)
)
def test_convolution_equals_the_loops(H, W, kh, kw, stride):
    x, kernel = normal(2, H, W, 2), normal(kh, kw, 2, 3)
    close(layers.convolution(x, kernel, stride)[0], convolution_in_loops(x, kernel, stride))


def test_a_1_x_1_convolution_is_a_linear_layer_without_a_copy():
    x, kernel = normal(2, 4, 3, 5), normal(1, 1, 5, 6)
    assert np.shares_memory(extract_windows(x, (1, 1), 1), x)
    assert np.array_equal(layers.convolution(x, kernel)[0], layers.linear(x, kernel[0, 0])[0])


def test_standardise_equals_the_loops():
    kernel = normal(3, 2, 4, 5) * np.linspace(0.1, 9, 5) + normal(5)
    close(layers.standardise(kernel)[0], standardise_in_loops(kernel), 1e-13)


def test_the_epsilon_of_standardise_is_added_to_the_standard_deviation():
    # The standard deviation and epsilon are both 1e-5, so the result is 1/2. An epsilon of 1e-10
    # added to the variance would give 1/√2.
    w = np.array([1e-5, -1e-5] * 2).reshape(2, 2, 1, 1)
    close(layers.standardise(w)[0].ravel(), [0.5, -0.5, 0.5, -0.5], 1e-11)


def test_standardise_is_invariant_to_the_mean_of_the_weights():
    kernel = normal(3, 3, 2, 4)
    value, pullback = layers.standardise(kernel)
    close(layers.standardise(kernel + 5)[0], value)
    close(pullback(normal(3, 3, 2, 4, seed=1)).sum((0, 1, 2)), 0)


@pytest.mark.filterwarnings("error")
def test_constant_weights_become_zeros_and_have_finite_gradients():
    value, pullback = layers.standardise(np.full((3, 3, 2, 4), 0.25))
    assert not value.any()
    assert np.isfinite(pullback(normal(3, 3, 2, 4))).all()


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm_equals_the_loops(groups):
    x, scale, bias = 3 + normal(2, 3, 4, 6), normal(6), normal(6)
    expected = group_norm_in_loops(x, scale, bias, groups, eps=0.1)
    close(layers.group_norm(x, scale, bias, groups, eps=0.1)[0], expected)


def test_group_norm_defaults_match_the_vit_authors_code():
    x, scale, bias = 1e-3 * normal(1, 2, 2, 64), np.ones(64), np.zeros(64)
    expected = layers.group_norm(x, scale, bias, groups=32, eps=1e-6)[0]
    assert np.array_equal(layers.group_norm(x, scale, bias)[0], expected)


def test_group_norm_in_float32_is_accurate_for_a_large_mean():
    # E[x²] - E[x]² would cancel: the variance is 1, the mean 3000.
    x = (3000 + normal(2, 8, 8, 4)).astype(np.float32)
    scale, bias = np.ones(4, np.float32), np.zeros(4, np.float32)
    exact = layers.group_norm(x.astype(float), np.ones(4), np.zeros(4), 2)[0]
    assert abs(layers.group_norm(x, scale, bias, 2)[0] - exact).max() < 1e-3


def test_group_norm_rejects_channels_that_are_not_a_multiple_of_the_groups():
    with pytest.raises(ValueError, match="48 channels are not a multiple of 32 groups"):
        layers.group_norm(np.ones((1, 2, 2, 48)), np.ones(48), np.zeros(48))


def test_relu():
    y, pullback = layers.relu(np.array([-2.0, -0.0, 0.0, 3.0]))
    assert y.tolist() == [0, 0, 0, 3]
    assert pullback(np.ones(4)).tolist() == [0, 0, 0, 1]


@fuzzed
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_max_pool_equals_the_loops(H, W, side, stride):
    x = -1 - abs(normal(2, H, W, 3))  # zero padding would be the maximum of every border window
    assert np.array_equal(layers.max_pool(x, side, stride)[0], max_pool_in_loops(x, side, stride))
    assert np.array_equal(layers.max_pool(x)[0], max_pool_in_loops(x, 3, 2))  # the defaults


def test_the_first_of_equal_maxima_receives_the_gradient():
    x = np.zeros((1, 4, 4, 1))
    y, pullback = layers.max_pool(x)
    assert y.shape == (1, 2, 2, 1)
    dx = pullback(np.array([1.0, 10, 100, 1000]).reshape(1, 2, 2, 1))[0, :, :, 0]
    expected = np.zeros((4, 4))
    expected[::2, ::2] = [[1, 10], [100, 1000]]  # the first entry of each window
    assert np.array_equal(dx, expected)
    x[0, 2, 2] = 7  # in all four windows
    assert layers.max_pool(x)[1](np.ones((1, 2, 2, 1)))[0, 2, 2, 0] == 4
