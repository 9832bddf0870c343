"""The gradients of all functions, and variants of the Transformer's layers.

`test_equations.py` compares the layers with the paper's equations in plain loops. Other files test
GELU, dropout and the layers of the ResNet.
"""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minivit
from minivit import layers
from minivit.checking.cases import all_cases, layer_cases

fuzzed = settings(max_examples=40, deadline=None, derandomize=True, database=None)
small = st.integers(1, 4)


def close(a, b, tolerance=1e-13):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def linear_params(D, E):
    return {"kernel": normal(D, E), "bias": normal(E)}


# --- all functions -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", list(all_cases()), ids=lambda case: case.name)
def test_every_pullback_is_the_derivative(case):
    # The complex step also shows that the function accepts complex arrays.
    report = case.check()
    assert report.worst <= 1e-12, str(report)


def test_the_cases_include_every_layer():
    assert {re.match(r"\w+", case.name)[0] for case in layer_cases()} >= set(layers.__all__)


# --- patches and their embedding -----------------------------------------------------------------


@fuzzed
@given(small, small, small, small, small)
def test_unpatchify_is_the_inverse_and_the_pullback_of_patchify(B, rows, columns, P, C):
    H, W = rows * P, columns * P
    images = normal(B, H, W, C)
    patches, patchify_back = layers.patchify(images, P)
    assert patches.shape == (B, rows * columns, P * P * C)
    inverse, unpatchify_back = layers.unpatchify(patches, P, H, W)
    assert np.array_equal(inverse, images)
    assert np.array_equal(patchify_back(patches), images)
    assert np.array_equal(unpatchify_back(images), patches)


def test_images_and_patches_of_invalid_sizes_are_rejected():
    for shape, size in [((1, 5, 4, 3), "5 x 4"), ((1, 4, 5, 3), "4 x 5")]:
        with pytest.raises(ValueError, match=f"{size} pixels cannot be cut into 2 x 2 patches"):
            layers.patchify(np.zeros(shape), 2)
    message = "6 patches of 2 x 2 do not form an image of 4 x 4"
    with pytest.raises(ValueError, match=message):
        layers.unpatchify(np.zeros((1, 6, 12)), 2, 4, 4)


def test_patch_embedding_equals_a_convolution_whose_stride_is_the_patch_size():
    P, images, E = 2, normal(2, 4, 6, 3), linear_params(12, 5)
    kernel = E["kernel"].reshape(P, P, 3, 5)
    expected = np.zeros((2, 2, 3, 5))
    for b, y, x, d in np.ndindex(expected.shape):
        expected[b, y, x, d] = E["bias"][d] + sum(
            images[b, P * y + i, P * x + j, c] * kernel[i, j, c, d]
            for i, j, c in np.ndindex(P, P, 3)
        )
    close(layers.patch_embedding(images, **E, patch_size=P)[0], expected.reshape(2, 6, 5))


# --- position embeddings -------------------------------------------------------------------------


RASTER = [(row, column) for row in range(3) for column in range(2)]  # a grid of 3 x 2


@pytest.mark.parametrize("with_class", [False, True])
def test_2d_positions(with_class):
    rows, columns, class_token = normal(3, 2), normal(2, 2), normal(4)
    table = [[*columns[j], *rows[i]] for i, j in RASTER]
    table = [class_token, *table] if with_class else table
    z = normal(2, len(table), 4)
    y, _ = layers.add_positions_2d(z, rows, columns, class_token if with_class else None)
    assert np.array_equal(y, z + np.array(table))


@pytest.mark.parametrize("T", [6, 7])
def test_sincos2d_positions(T):
    D, z = 12, normal(2, T, 12)
    omega = [10000 ** (-j / (D // 4 - 1)) for j in range(D // 4)]
    waves = (math.sin, math.cos)
    table = [[f(x * w) for x in (j, i) for f in waves for w in omega] for i, j in RASTER]
    if T == 7:
        table = [[0] * D, *table]  # the class token has no position
    close(layers.add_positions_sincos2d(z, (3, 2))[0], z + np.array(table))


def test_sincos2d_positions_have_the_values_of_big_vision():
    table = layers.add_positions_sincos2d(np.zeros((1, 4, 8)), (2, 2))[0][0]
    expected = [
        [0, 0, 1, 1, 0, 0, 1, 1],
        [0.841471, 0.0001, 0.540302, 1, 0, 0, 1, 1],
        [0, 0, 1, 1, 0.841471, 0.0001, 0.540302, 1],
    ]
    np.testing.assert_allclose(table[:3], expected, atol=5e-7)


def offset_row(i, j, T, rows, class_token):
    """Return the row of the relative table for query i and key j.

    The last three rows are those of the class token: to a patch, from a patch, and to itself.
    """
    if class_token:
        if i == j == 0:
            return rows - 1
        if i == 0 or j == 0:
            return rows - 3 if i == 0 else rows - 2
    return i - j + T - class_token - 1


@pytest.mark.parametrize("class_token", [False, True])
def test_relative_positions(class_token):
    T, rows = 4, (8 if class_token else 7)
    q, table = normal(2, 2, T, 3), normal(rows, 6)
    expected = np.zeros((2, 2, T, T))
    for b, head, i, j in np.ndindex(expected.shape):
        row = table[offset_row(i, j, T, rows, class_token)]
        expected[b, head, i, j] = q[b, head, i] @ row[3 * head : 3 * head + 3]
    close(layers.relative_positions(q, table, class_token)[0], expected)


# --- layer norm and softmax ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 1, 3, 5)])
@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_layer_norm_applies_to_the_last_axis_of_any_array(shape, eps):
    x, scale, bias = 3 + normal(*shape), normal(5), normal(5)
    x_hat = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    close(layers.layer_norm(x, scale, bias, eps)[0], scale * x_hat + bias)


def test_the_default_epsilon_of_layer_norm_is_that_of_the_authors():
    x = np.array([[1e-3, -1e-3]])  # the variance is 1e-6, so epsilon doubles the denominator
    close(layers.layer_norm(x, np.ones(2), np.zeros(2))[0], [[0.5**0.5, -(0.5**0.5)]])


def test_layer_norm_of_a_constant_token_is_the_bias():
    x, bias = np.full((2, 3), 1e4), np.array([1.0, 2.0, 3.0])
    y, pullback = layers.layer_norm(x, np.ones(3), bias)
    assert np.array_equal(y, [bias, bias])
    assert np.isfinite(pullback(np.ones((2, 3)))[0]).all()


@fuzzed
@given(small, st.integers(1, 6), st.floats(-1e3, 1e3), st.integers(0, 1000))
def test_softmax_is_invariant_to_a_shift(rows, columns, shift, seed):
    x = normal(rows, columns, seed=seed) * 10
    p, _ = layers.softmax(x)
    close(p, np.exp(x) / np.exp(x).sum(-1, keepdims=True))
    close(layers.softmax(x + shift)[0], p, 1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_of_large_scores_is_finite(dtype):
    p, pullback = layers.softmax(np.array([[1e4, -1e4, 1e4], [-1e4, -1e4, -1e4]], dtype))
    close(p, [[0.5, 0, 0.5], [1 / 3] * 3], 1e-7)
    assert np.isfinite(pullback(np.ones_like(p))).all()


# --- attention -----------------------------------------------------------------------------------


def test_attend_adds_the_bias_to_the_scores_and_writes_its_gradients_to_out():
    q, k, v, dy = normal(4, 2, 4, 3)
    bias, seen = normal(2, 4, 4), {}
    y, pullback = layers.attend(q, k, v, bias, watch=seen.__setitem__)
    A, _ = layers.softmax(q @ k.swapaxes(1, 2) + bias)
    close(seen["probabilities"], A)
    close(y, A @ v)
    gradients, out = pullback(dy), [np.zeros_like(q) for _ in range(3)]
    close(seen["dprobabilities"], dy @ v.swapaxes(1, 2))
    pullback(dy, out=out)
    assert all(np.array_equal(a, b) for a, b in zip(out, gradients, strict=False))


@pytest.mark.parametrize("relative", [None, "patches", "class token"])
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_self_attention_equals_a_loop_over_the_heads(heads, relative):
    z, qkv, out, seen = normal(2, 4, 6), linear_params(6, 18), linear_params(6, 6), {}
    class_token, Dh = relative == "class token", 6 // heads
    table = normal(7 + class_token, 6)
    packed, values = z @ qkv["kernel"] + qkv["bias"], []
    for head in range(heads):
        part = slice(head * Dh, (head + 1) * Dh)
        q, k, v = (x[..., part] for x in np.split(packed, 3, axis=-1))
        q = q / math.sqrt(Dh)
        bias, _ = layers.relative_positions(q[:, None], table[:, part], class_token)
        values.append(layers.attend(q, k, v, bias[:, 0] if relative else None)[0])
    params = {"relative": {"table": table}} if relative else {}
    options = {"class_token": class_token, "watch": seen.__setitem__}
    y, pullback = layers.self_attention(z, qkv, out, heads, **params, **options)
    close(y, np.concatenate(values, axis=-1) @ out["kernel"] + out["bias"])
    pullback(y)
    assert seen["probabilities"].shape == seen["dprobabilities"].shape == (2, heads, 4, 4)


def test_a_width_that_is_not_a_multiple_of_the_heads_is_rejected():
    with pytest.raises(ValueError, match="width 6 is not a multiple of 4 heads"):
        layers.self_attention(normal(2, 4, 6), linear_params(6, 18), linear_params(6, 6), 4)


# --- pooling and losses --------------------------------------------------------------------------


def test_mean_pooling_averages_all_tokens():
    z = normal(2, 3, 4)
    close(layers.mean_pool(z)[0], [[sum(image[:, d]) / 3 for d in range(4)] for image in z])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "soft"])
def test_cross_entropy_accepts_integers_and_soft_targets(smoothing, dtype):
    logits, labels = normal(3, 4), np.array([2, 0, 3])
    targets = np.eye(4)[labels]
    if dtype == "soft":
        targets = np.random.default_rng(1).dirichlet(np.ones(4), size=3)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss, pullback = layers.cross_entropy(logits, targets, smoothing)
    close(loss, -(((1 - smoothing) * targets + smoothing / 4) * log_p).sum() / 3)
    if dtype != "soft":
        label_loss, label_back = layers.cross_entropy(logits, labels.astype(dtype), smoothing)
        assert label_loss == loss
        assert np.array_equal(label_back(), pullback())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, 0.6, 0.0], "row 1 has a minimum of 0 and a sum of 1.1"),
        ([1.5, -0.5, 0.0], "row 1 has a minimum of -0.5 and a sum of 1"),
        ([np.nan, 0.5, 0.5], "row 1 has a minimum of nan and a sum of nan"),
        ([np.inf, 0.0, 0.0], "row 1 has a minimum of 0 and a sum of inf"),
    ],
)
def test_soft_labels_that_are_not_probabilities_are_rejected(row, message):
    targets = np.array([[0.2, 0.3, 0.5], row])
    expected = "soft labels must be finite and non-negative, and each row must sum to 1: " + message
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        layers.cross_entropy(normal(2, 3), targets)
    with pytest.raises(ValueError, match=re.escape(message)):
        minivit.data.mix(normal(2, 4, 4, 1), targets, 3, np.random.default_rng(0), mixup=0.5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_large_logits_is_finite(dtype):
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0]], dtype)
    loss, pullback = layers.cross_entropy(logits, np.array([0, 1]))
    assert loss == 1e4  # the mean of 0 and 2e4
    close(pullback(), [[0, 0, 0], [0.5, -0.5, 0]])
    assert np.isfinite(layers.cross_entropy(logits, np.array([0, 1]), 0.1)[0])


def test_invalid_labels_are_rejected():
    logits = np.zeros((2, 4))
    for label in (4, -1, 1000):
        with pytest.raises(ValueError, match=f"label {label} is out of range: 4 classes"):
            layers.cross_entropy(logits, np.array([3, label]))
    for shape in ((3,), (2, 1), (2, 3), ()):
        with pytest.raises(ValueError, match=re.escape(f"labels of shape {shape} for logits")):
            layers.cross_entropy(logits, np.zeros(shape, int))
    for dtype in ("float32", "bool"):
        with pytest.raises(TypeError, match=rf"integers \(class numbers\), not {dtype}"):
            layers.cross_entropy(logits, np.zeros(2, dtype))


def test_the_mean_squared_error_equals_the_loops():
    y, target = normal(2, 3, 4)
    total = sum((y[index] - target[index]) ** 2 for index in np.ndindex(3, 4))
    close(layers.mean_squared_error(y, target)[0], total / 12)


def test_the_default_cotangent_of_a_loss_is_1():
    _, entropy_back = layers.cross_entropy(normal(3, 4), np.array([2, 0, 3]))
    _, error_back = layers.mean_squared_error(normal(3), normal(3, seed=1))
    for pullback in (entropy_back, error_back):
        assert np.array_equal(pullback(), pullback(1))
        close(np.array(pullback(3)), 3 * np.array(pullback()))


@pytest.mark.parametrize("shape", [(2, 1), (3,), (3, 2), ()])
def test_the_mean_squared_error_of_different_shapes_is_rejected(shape):
    # NumPy would broadcast three of these shapes.
    with pytest.raises(ValueError, match=re.escape(f"shapes differ: (2, 3) and {shape}")):
        layers.mean_squared_error(np.zeros((2, 3)), np.zeros(shape))
