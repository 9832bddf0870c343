"""Every layer against the paper's formula, written here in plain loops."""

import functools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivit import ViTConfig, flatten, gradcheck, layers
from minivit.checking.cases import all_cases, perturb
from minivit.layers.convolution import extract_windows
from minivit.layers.padding import same_padding
from minivit.models import initialise, vit

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
small = st.integers(1, 4)


def close(a, b, tolerance=1e-13):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def weights(rng, inputs, outputs):
    return {"kernel": rng.normal(size=(inputs, outputs)), "bias": rng.normal(size=outputs)}


def every_layer(dtype="float64"):
    """{name: (layer, arguments)} on tiny, odd shapes; the first word is the layer's name."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    def linear(inputs, outputs):
        return {"kernel": draw(inputs, outputs), "bias": draw(outputs)}

    def seeded(layer):
        # A layer that drops draws from a generator of its own, the same at every call.
        @functools.wraps(layer)
        def with_generator(x, *more):
            return layer(x, *more, rate=0.3, generator=np.random.default_rng(7))

        return with_generator

    z, table = draw(2, 5, 6), draw(10, 6)
    labels, targets = np.array([3, 0, 1]), abs(draw(3, 4))
    attention = z, linear(6, 18), linear(6, 6)
    return {
        "patchify": (layers.patchify, (draw(2, 4, 6, 3), 2)),
        "unpatchify": (layers.unpatchify, (draw(2, 6, 12), 2, 4, 6)),
        "linear": (layers.linear, (z, draw(6, 4), draw(4))),
        "linear without bias": (layers.linear, (z, draw(6, 4), None)),
        "patch_embedding without bias": (
            layers.patch_embedding, (draw(2, 4, 6, 3), draw(12, 5), None, 2)
        ),
        "patch_embedding": (
            layers.patch_embedding, (draw(2, 4, 6, 3), draw(12, 5), draw(5), 2)
        ),
        "prepend_class_token": (layers.prepend_class_token, (z, draw(6))),
        "add_positions": (layers.add_positions, (z, draw(5, 6))),
        "add_positions_2d": (layers.add_positions_2d, (draw(2, 6, 4), draw(2, 2), draw(3, 2))),
        "add_positions_2d with class token": (
            layers.add_positions_2d, (draw(2, 7, 4), draw(2, 2), draw(3, 2), draw(4))
        ),
        "add_positions_sincos2d": (layers.add_positions_sincos2d, (draw(2, 7, 12), (3, 2))),
        "relative_positions": (layers.relative_positions, (draw(2, 2, 5, 3), draw(9, 6), False)),
        "relative_positions with class token": (
            layers.relative_positions, (draw(2, 2, 5, 3), table, True)
        ),
        "layer_norm": (layers.layer_norm, (z, draw(6), draw(6))),
        "softmax": (layers.softmax, (draw(2, 3, 5),)),
        "attend": (layers.attend, (draw(2, 5, 3), draw(2, 5, 3), draw(2, 5, 3))),
        "attend with bias": (
            layers.attend, (draw(2, 5, 3), draw(2, 5, 3), draw(2, 5, 3), draw(2, 5, 5))
        ),
        "single_head_attention": (layers.single_head_attention, (z, draw(6, 9), draw(9))),
        "self_attention": (layers.self_attention, (*attention, 2)),
        "self_attention with relative positions": (
            layers.self_attention, (*attention, 2, {"table": table})
        ),
        "self_attention with dropout": (seeded(layers.self_attention), (*attention, 2)),
        "gelu tanh": (layers.gelu, (2 * z, "tanh")),
        "gelu erf": (layers.gelu, (2 * z, "erf")),
        "mlp": (layers.mlp, (z, linear(6, 7), linear(7, 6), "erf")),
        "mlp with dropout": (seeded(layers.mlp), (z, linear(6, 7), linear(7, 6))),
        "dropout": (seeded(layers.dropout), (z,)),
        "drop_path": (seeded(layers.drop_path), (draw(7, 2, 3),)),
        "class_pool": (layers.class_pool, (z,)),
        "mean_pool": (layers.mean_pool, (z,)),
        "hidden_layer": (layers.hidden_layer, (draw(3, 6), draw(6, 5), draw(5))),
        "pretraining_head": (
            layers.pretraining_head, (draw(3, 6), linear(6, 5), linear(5, 4))
        ),
        "cross_entropy": (layers.cross_entropy, (draw(3, 4), labels)),
        "cross_entropy smoothed": (layers.cross_entropy, (draw(3, 4), labels, 0.1)),
        "cross_entropy soft": (lambda x: layers.cross_entropy(x, targets, 0.1), (draw(3, 4),)),
        "mean_squared_error": (layers.mean_squared_error, (draw(3, 4), draw(3, 4))),
        "convolution": (layers.convolution, (draw(2, 5, 6, 3), draw(3, 3, 3, 4))),
        "convolution of stride 2": (layers.convolution, (draw(2, 5, 6, 3), draw(3, 3, 3, 4), 2)),
        "convolution 7 x 7": (layers.convolution, (draw(1, 9, 8, 2), draw(7, 7, 2, 3), 2)),
        "convolution 3 x 2": (layers.convolution, (draw(1, 4, 5, 3), draw(3, 2, 3, 4), 1)),
        "convolution 1 x 1": (layers.convolution, (draw(2, 5, 6, 3), draw(1, 1, 3, 4))),
        "convolution 1 x 1 of stride 2": (
            layers.convolution, (draw(2, 5, 6, 3), draw(1, 1, 3, 4), 2)
        ),
        "standardise": (layers.standardise, (draw(3, 3, 2, 4),)),
        "standardise small weights": (layers.standardise, (1e-3 * draw(3, 3, 2, 4),)),
        "standardised_convolution": (
            layers.standardised_convolution, (draw(2, 5, 6, 3), draw(3, 3, 3, 4), 2)
        ),
        "group_norm": (layers.group_norm, (draw(2, 3, 4, 6), draw(6), draw(6), 2)),
        "group_norm of single channels": (
            layers.group_norm, (draw(2, 3, 4, 3), draw(3), draw(3), 3)
        ),
        "relu": (layers.relu, (draw(4, 5),)),
        "max_pool": (layers.max_pool, (draw(2, 5, 6, 3),)),
        "max_pool of stride 1": (layers.max_pool, (draw(2, 3, 4, 2), 2, 1)),
    }  # fmt: skip


every = pytest.mark.parametrize("name", every_layer())


def gradients(pullback, value, rng):
    """A pullback's gradients by name, for a random cotangent of the value's dtype."""
    result = pullback(rng.normal(size=value.shape).astype(value.dtype))
    return flatten(list(result) if isinstance(result, tuple) else [result])


# All layers at once


def test_no_layer_is_forgotten():
    assert {name.split()[0] for name in every_layer()} == set(layers.__all__)


@every
def test_the_pullback_is_the_derivative(name):
    # This also shows that complex numbers pass: the checker sends them through.
    layer, arguments = every_layer()[name]
    errors = gradcheck(layer, *arguments)
    assert errors.worst <= 1e-12, str(errors)


@every
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_is_kept(name, dtype):
    layer, arguments = every_layer(dtype)[name]
    value, pullback = layer(*arguments)
    assert value.dtype == dtype
    for path, gradient in gradients(pullback, value, np.random.default_rng(0)).items():
        assert gradient.dtype == dtype, path


@every
def test_float32_gives_what_float64_gives(name):
    layer, arguments = every_layer("float32")[name]
    wide, wide_back = layer(*every_layer("float64")[name][1])
    value, pullback = layer(*arguments)
    assert abs(value - wide).max() <= 1e-5 * abs(wide).max()
    narrow = gradients(pullback, value, np.random.default_rng(0))
    for path, gradient in gradients(wide_back, wide, np.random.default_rng(0)).items():
        assert abs(narrow[path] - gradient).max() <= 1e-5 * abs(gradient).max(), path


# Patches and their embedding


def patches_in_loops(images, P):
    """Row by row from the top left corner, each patch in the order row, column, channel."""
    B, H, W, C = images.shape
    patches = [
        [
            [
                image[top + i, left + j, c]
                for i in range(P) for j in range(P) for c in range(C)
            ]
            for top in range(0, H, P) for left in range(0, W, P)
        ]
        for image in images
    ]  # fmt: skip
    return np.array(patches).reshape(B, H // P * (W // P), P * P * C)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 6, 2, 1), (3, 2, 2, 2)])
def test_patchify(shape):
    images = np.random.default_rng(0).normal(size=shape)
    assert np.array_equal(layers.patchify(images, 2)[0], patches_in_loops(images, 2))


@quick
@given(small, small, small, small, small)
def test_patchify_and_unpatchify_undo_each_other(B, rows, columns, P, C):
    rng = np.random.default_rng(0)
    H, W = rows * P, columns * P
    images = rng.normal(size=(B, H, W, C))
    patches, patchify_back = layers.patchify(images, P)
    assert patches.shape == (B, rows * columns, P * P * C)
    again, unpatchify_back = layers.unpatchify(patches, P, H, W)
    assert np.array_equal(again, images)
    # Each moves every number to one place, so its pullback is the other.
    assert np.array_equal(patchify_back(patches), images)
    assert np.array_equal(unpatchify_back(images), patches)


def test_an_image_that_cannot_be_cut_is_refused():
    for shape, pixels in [((1, 5, 4, 3), "5 x 4"), ((1, 4, 5, 3), "4 x 5")]:
        with pytest.raises(ValueError, match=f"{pixels} pixels cannot be cut into 2 x 2 patches"):
            layers.patchify(np.zeros(shape), 2)


def test_patch_embedding_projects_every_patch():
    rng = np.random.default_rng(0)
    images, E = rng.normal(size=(2, 4, 6, 3)), weights(rng, 12, 5)
    expected = [
        [[row @ E["kernel"][:, d] + E["bias"][d] for d in range(5)] for row in image]
        for image in patches_in_loops(images, 2)
    ]
    close(layers.patch_embedding(images, **E, patch_size=2)[0], expected)


def test_patch_embedding_is_a_convolution_with_stride():
    rng = np.random.default_rng(0)
    P, images, E = 2, rng.normal(size=(2, 4, 6, 3)), weights(rng, 12, 5)
    filters = E["kernel"].reshape(P, P, 3, 5)
    expected = np.zeros((2, 2, 3, 5))
    for b, y, x, d in np.ndindex(expected.shape):
        expected[b, y, x, d] = E["bias"][d] + sum(
            images[b, P * y + i, P * x + j, c] * filters[i, j, c, d]
            for i, j, c in np.ndindex(P, P, 3)
        )
    close(layers.patch_embedding(images, **E, patch_size=P)[0], expected.reshape(2, 6, 5))


def test_linear():
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)
    plain = np.zeros((2, 3, 5))
    for b, t, e in np.ndindex(plain.shape):
        plain[b, t, e] = sum(x[b, t, d] * kernel[d, e] for d in range(4))
    close(layers.linear(x, kernel)[0], plain)
    close(layers.linear(x, kernel, bias)[0], plain + bias)


def test_the_class_token_comes_first():
    rng = np.random.default_rng(0)
    x, token = rng.normal(size=(2, 3, 4)), rng.normal(size=4)
    z, _ = layers.prepend_class_token(x, token)
    assert np.array_equal(z, [[token, *image] for image in x])


# Positions


def test_positions_1d():
    rng = np.random.default_rng(0)
    z, table = rng.normal(size=(2, 3, 4)), rng.normal(size=(3, 4))
    expected = [[token + table[t] for t, token in enumerate(image)] for image in z]
    assert np.array_equal(layers.add_positions(z, table)[0], expected)


def grid_in_raster_order(rows, columns):
    return [(row, column) for row in range(rows) for column in range(columns)]


@pytest.mark.parametrize("class_token", [False, True])
def test_positions_2d(class_token):
    rng = np.random.default_rng(0)
    rows, columns, own = rng.normal(size=(3, 2)), rng.normal(size=(2, 2)), rng.normal(size=4)
    table = [[*columns[j], *rows[i]] for i, j in grid_in_raster_order(3, 2)]
    if class_token:
        table = [own, *table]
    z = rng.normal(size=(2, len(table), 4))
    y, _ = layers.add_positions_2d(z, rows, columns, own if class_token else None)
    assert np.array_equal(y, z + np.array(table))


def sincos(row, column, D):
    """[sin xω, cos xω, sin yω, cos yω], D/4 frequencies from 1 down to 1/10000."""
    frequencies = [10000 ** (-j / (D // 4 - 1)) for j in range(D // 4)]
    waves = [(math.sin, column), (math.cos, column), (math.sin, row), (math.cos, row)]
    return [wave(place * frequency) for wave, place in waves for frequency in frequencies]


@pytest.mark.parametrize("tokens", [6, 7])
def test_positions_sincos2d(tokens):
    z = np.random.default_rng(0).normal(size=(2, tokens, 12))
    table = [sincos(i, j, 12) for i, j in grid_in_raster_order(3, 2)]
    if tokens == 7:
        table = [[0] * 12, *table]  # the class token has no place
    close(layers.add_positions_sincos2d(z, (3, 2))[0], z + np.array(table))


def test_positions_sincos2d_of_big_vision():
    table = layers.add_positions_sincos2d(np.zeros((1, 4, 8)), (2, 2))[0][0]
    expected = [
        [0, 0, 1, 1, 0, 0, 1, 1],
        [0.841471, 0.0001, 0.540302, 1, 0, 0, 1, 1],
        [0, 0, 1, 1, 0.841471, 0.0001, 0.540302, 1],
    ]
    np.testing.assert_allclose(table[:3], expected, atol=5e-7)


def offset_row(i, j, tokens, rows, class_token):
    """Which row of the table stands for query i and key j: the last three are the class token's."""
    if class_token:
        if i == j == 0:
            return rows - 1
        if i == 0 or j == 0:
            return rows - 3 if i == 0 else rows - 2
    return i - j + tokens - class_token - 1


@pytest.mark.parametrize("class_token", [False, True])
def test_positions_relative(class_token):
    rng = np.random.default_rng(0)
    T, rows = 4, (8 if class_token else 7)
    q, table = rng.normal(size=(2, 2, T, 3)), rng.normal(size=(rows, 6))
    expected = np.zeros((2, 2, T, T))
    for b, head, i, j in np.ndindex(expected.shape):
        row = table[offset_row(i, j, T, rows, class_token)]
        expected[b, head, i, j] = q[b, head, i] @ row[3 * head : 3 * head + 3]
    close(layers.relative_positions(q, table, class_token)[0], expected)


# Layer norm and softmax


def layer_norm_in_loops(x, scale, bias, eps):
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape[:-1]):
        row, D = x[index], x.shape[-1]
        mean = sum(row) / D
        variance = sum((entry - mean) ** 2 for entry in row) / D
        y[index] = [
            scale[d] * (row[d] - mean) / math.sqrt(variance + eps) + bias[d] for d in range(D)
        ]
    return y


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5)])
@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_layer_norm(shape, eps):
    rng = np.random.default_rng(0)
    x, scale, bias = 3 + rng.normal(size=shape), rng.normal(size=5), rng.normal(size=5)
    close(layers.layer_norm(x, scale, bias, eps)[0], layer_norm_in_loops(x, scale, bias, eps))


def test_layer_norm_has_the_eps_of_the_authors():
    x = np.array([[1e-3, -1e-3]])  # of variance 1e-6, so eps halves it: ±1/√2
    close(layers.layer_norm(x, np.ones(2), np.zeros(2))[0], [[0.5**0.5, -(0.5**0.5)]])


def test_layer_norm_of_a_constant_token_is_the_bias():
    x, bias = np.full((2, 3), 1e4), np.array([1.0, 2.0, 3.0])
    y, pullback = layers.layer_norm(x, np.ones(3), bias)
    assert np.array_equal(y, [bias, bias])
    assert np.isfinite(pullback(np.ones((2, 3)))[0]).all()


def softmax_in_loops(scores):
    exps = [math.exp(score) for score in scores]
    return [e / sum(exps) for e in exps]


def test_softmax():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)) * 3
    close(layers.softmax(x)[0], [[softmax_in_loops(row) for row in rows] for rows in x])


@quick
@given(small, st.integers(1, 6), st.floats(-1e3, 1e3), st.integers(0, 1000))
def test_softmax_forgets_a_shift(rows, columns, shift, seed):
    x = np.random.default_rng(seed).normal(size=(rows, columns)) * 10
    p, _ = layers.softmax(x)
    close(layers.softmax(x + shift)[0], p, 1e-11)
    close(p.sum(-1), 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_of_large_scores_is_finite(dtype):
    p, pullback = layers.softmax(np.array([[1e4, -1e4, 1e4], [-1e4, -1e4, -1e4]], dtype))
    close(p, [[0.5, 0, 0.5], [1 / 3] * 3], 1e-7)
    assert np.isfinite(pullback(np.ones_like(p))).all()


# Attention


def attend_in_loops(q, k, v, bias=None):
    """One head of one image; q is already divided by √Dh. Returns A and A v."""
    A = np.array([
        softmax_in_loops([q[i] @ k[j] + (0 if bias is None else bias[i, j]) for j in range(len(k))])
        for i in range(len(q))
    ])  # fmt: skip
    return A, np.array([sum(A[i, j] * v[j] for j in range(len(v))) for i in range(len(q))])


@pytest.mark.parametrize("with_bias", [False, True])
def test_attend(with_bias):
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, 4, 3))
    bias = rng.normal(size=(2, 4, 4)) if with_bias else None
    seen = {}
    y, pullback = layers.attend(q, k, v, bias, watch=seen.__setitem__)
    for b in range(2):
        A, expected = attend_in_loops(q[b], k[b], v[b], None if bias is None else bias[b])
        close(y[b], expected)
        close(seen["probabilities"][b], A)
    dy = rng.normal(size=y.shape)
    pullback(dy)
    close(seen["dprobabilities"], [[[d @ row for row in v[b]] for d in dy[b]] for b in range(2)])


def test_attend_writes_where_it_is_told():
    q, k, v, dy = np.random.default_rng(0).normal(size=(4, 2, 4, 3))
    _, pullback = layers.attend(q, k, v)
    rooms = [np.zeros_like(q) for _ in range(3)]
    pullback(dy, out=rooms)
    for room, gradient in zip(rooms, pullback(dy)[:3], strict=True):
        assert np.array_equal(room, gradient)


def heads_in_loops(z, qkv, heads, table=None, class_token=True):
    """Equations 5 to 7 for each image and head, the heads side by side."""
    B, T, D = z.shape
    Dh = D // heads
    joined = np.zeros((B, T, D))
    for b, head in np.ndindex(B, heads):
        columns = [range(part * D + head * Dh, part * D + head * Dh + Dh) for part in range(3)]
        q, k, v = (z[b] @ qkv["kernel"][:, own] + qkv["bias"][own] for own in columns)  # (5)
        q = q / math.sqrt(Dh)
        bias = np.zeros((T, T))
        if table is not None:
            own = table[:, head * Dh : head * Dh + Dh]
            for i, j in np.ndindex(T, T):
                bias[i, j] = q[i] @ own[offset_row(i, j, T, len(table), class_token)]
        joined[b, :, head * Dh : head * Dh + Dh] = attend_in_loops(q, k, v, bias)[1]  # (6, 7)
    return joined


def test_single_head_attention():
    rng = np.random.default_rng(0)
    z, qkv = rng.normal(size=(2, 4, 3)), weights(rng, 3, 9)
    close(layers.single_head_attention(z, **qkv)[0], heads_in_loops(z, qkv, heads=1))


def test_a_single_head_may_be_narrower_than_the_tokens():
    rng = np.random.default_rng(0)
    z, U = rng.normal(size=(2, 4, 5)), rng.normal(size=(5, 9))
    y, _ = layers.single_head_attention(z, U)
    for b in range(2):
        q, k, v = z[b] @ U[:, :3], z[b] @ U[:, 3:6], z[b] @ U[:, 6:]
        close(y[b], attend_in_loops(q / math.sqrt(3), k, v)[1])


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_self_attention(heads):
    rng = np.random.default_rng(0)
    z, qkv, out = rng.normal(size=(2, 4, 6)), weights(rng, 6, 18), weights(rng, 6, 6)
    mixed = heads_in_loops(z, qkv, heads) @ out["kernel"] + out["bias"]  # (8)
    close(layers.self_attention(z, qkv, out, heads)[0], mixed)


@pytest.mark.parametrize("class_token", [False, True])
def test_self_attention_with_relative_positions(class_token):
    rng = np.random.default_rng(0)
    z, qkv, out = rng.normal(size=(2, 4, 6)), weights(rng, 6, 18), weights(rng, 6, 6)
    table = rng.normal(size=(8 if class_token else 7, 6))
    y, _ = layers.self_attention(z, qkv, out, 2, relative={"table": table}, class_token=class_token)
    close(y, heads_in_loops(z, qkv, 2, table, class_token) @ out["kernel"] + out["bias"])


def test_self_attention_shows_its_probabilities():
    rng = np.random.default_rng(0)
    z, qkv, out = rng.normal(size=(2, 4, 6)), weights(rng, 6, 18), weights(rng, 6, 6)
    seen = {}
    y, pullback = layers.self_attention(z, qkv, out, 3, watch=seen.__setitem__)
    pullback(y)
    assert seen["probabilities"].shape == seen["dprobabilities"].shape == (2, 3, 4, 4)
    close(seen["probabilities"].sum(-1), 1)


def test_self_attention_drops_after_the_last_projection():
    rng = np.random.default_rng(0)
    z, qkv, out = rng.normal(size=(2, 4, 6)), weights(rng, 6, 18), weights(rng, 6, 6)
    mixed, _ = layers.self_attention(z, qkv, out, 2)
    dropped, _ = layers.dropout(mixed, 0.4, np.random.default_rng(5))
    y, _ = layers.self_attention(z, qkv, out, 2, rate=0.4, generator=np.random.default_rng(5))
    assert np.array_equal(y, dropped)


# GELU and the MLP

#       x      exact       tanh
GELU = [
    (-3.0, -0.0040497, -0.0036374),
    (-2.0, -0.0455003, -0.0454023),
    (-1.0, -0.1586553, -0.1588080),
    (-0.5, -0.1542688, -0.1542860),
    (+0.5, +0.3457312, +0.3457140),
    (+1.0, +0.8413447, +0.8411920),
    (+2.0, +1.9544997, +1.9545977),
    (+3.0, +2.9959503, +2.9963626),
]
SLOPE = [
    (-2.0, -0.0852318, -0.0860993),
    (-1.0, -0.0833155, -0.0829641),
    (+0.5, +0.8674951, +0.8673699),
    (+1.0, +1.0833155, +1.0829641),
    (+2.0, +1.0852318, +1.0860993),
]


@pytest.mark.parametrize(("kind", "column"), [("erf", 1), ("tanh", 2)])
def test_gelu_has_the_known_values_and_slopes(kind, column):
    values, slopes = np.array(GELU), np.array(SLOPE)
    y, _ = layers.gelu(values[:, 0], kind)
    np.testing.assert_allclose(y, values[:, column], rtol=0, atol=6e-8)
    _, pullback = layers.gelu(slopes[:, 0], kind)
    np.testing.assert_allclose(pullback(np.ones(5)), slopes[:, column], rtol=0, atol=6e-8)


def test_gelu_tanh_is_the_formula_of_the_authors():
    x = np.linspace(-9, 9, 401)
    bend = [math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)) for v in x]
    close(layers.gelu(x)[0], 0.5 * x * (1 + np.array(bend)))
    assert np.array_equal(layers.gelu(x)[0], layers.gelu(x, "tanh")[0])


def test_the_two_gelus_differ_most_at_2_70():
    x = np.linspace(0, 6, 6001)
    gap = abs(layers.gelu(x, "erf")[0] - layers.gelu(x, "tanh")[0])
    assert abs(gap.max() - 4.73e-4) < 5e-7
    assert abs(x[gap.argmax()] - 2.70) < 0.01


def test_gelu_erf_in_float64_is_exact():
    rng = np.random.default_rng(0)
    near = [np.linspace(-40, 40, 8001), rng.normal(size=8000) * 3, [0.0, 1e4, -1e4, 1e-300]]
    x = np.concatenate(near)
    chance = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    density = np.array([math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in x])
    y, pullback = layers.gelu(x, "erf")
    allowed = 4e-15 * np.maximum(1, abs(x))
    assert (abs(y - x * chance) <= allowed).all()
    assert (abs(pullback(np.ones_like(x)) - chance - x * density) <= allowed).all()


@pytest.mark.parametrize("kind", ["erf", "tanh"])
def test_gelu_in_float32_is_as_good_as_float32(kind):
    rng = np.random.default_rng(0)
    far = np.geomspace(1e-30, 1e4, 200_001)
    dense = rng.normal(size=800_000) * 3
    x = np.concatenate([dense, rng.uniform(-12, 12, 1_000_000), far, -far]).astype("float32")
    ones = np.ones(x.shape, "float32")
    y, pullback = layers.gelu(x, kind)
    wide, wide_back = layers.gelu(x.astype("float64"), kind)
    size = np.maximum(1, abs(x.astype("float64")))
    assert y.dtype == "float32"
    assert (abs(y - wide) <= 2e-7 * size).all()
    assert (abs(pullback(ones) - wide_back(ones)) <= 3e-7 * size).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["tanh", "erf"])
def test_gelu_of_large_numbers_is_x_or_nothing(kind, dtype):
    x = np.array([1e4, -1e4, 1e19, -1e19], dtype)  # the square of 2e19 overflows in float32
    y, pullback = layers.gelu(x, kind)
    assert (abs(y - np.maximum(x, 0)) <= 1e-15 * abs(x)).all()
    np.testing.assert_allclose(pullback(np.ones(4, dtype)), [1, 0, 1, 0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["tanh", "erf"])
def test_gelu_has_slope_one_half_where_x_is_nothing(kind, dtype):
    # There y / x does not say what Φ is.
    x = np.array([0.0, -0.0, 1e-300 if dtype == "float64" else 1e-30], dtype)
    _, pullback = layers.gelu(x, kind)
    assert pullback(np.ones(3, dtype)).tolist() == [0.5, 0.5, 0.5]


def test_gelu_of_many_numbers_is_gelu_of_each():
    # Long arrays are worked on in blocks; a block's edge must not show.
    x = np.random.default_rng(0).normal(size=(3, 50_001))
    for kind in ("tanh", "erf"):
        y, pullback = layers.gelu(x, kind)
        alone = [layers.gelu(row, kind) for row in x]
        close(y, [value for value, _ in alone], 1e-15)
        close(pullback(x), [back(row) for row, (_, back) in zip(x, alone, strict=True)], 1e-15)
        transposed, _ = layers.gelu(x.T, kind)  # not contiguous
        close(transposed, y.T, 1e-15)


def test_an_unknown_gelu_is_refused():
    with pytest.raises(ValueError, match="unknown GELU 'quick': choose 'tanh' or 'erf'"):
        layers.gelu(np.zeros(3), "quick")


@pytest.mark.parametrize("kind", ["tanh", "erf"])
def test_mlp(kind):
    rng = np.random.default_rng(0)
    x, hidden, out = rng.normal(size=(2, 3, 4)), weights(rng, 4, 7), weights(rng, 7, 4)
    bent, _ = layers.gelu(x @ hidden["kernel"] + hidden["bias"], kind)
    close(layers.mlp(x, hidden, out, kind)[0], bent @ out["kernel"] + out["bias"])


def test_mlp_drops_after_each_layer():
    rng = np.random.default_rng(0)
    x, hidden, out = rng.normal(size=(2, 3, 4)), weights(rng, 4, 7), weights(rng, 7, 4)
    dice = np.random.default_rng(5)
    bent, _ = layers.gelu(x @ hidden["kernel"] + hidden["bias"])
    bent, _ = layers.dropout(bent, 0.4, dice)
    expected, _ = layers.dropout(bent @ out["kernel"] + out["bias"], 0.4, dice)
    y, _ = layers.mlp(x, hidden, out, rate=0.4, generator=np.random.default_rng(5))
    close(y, expected)


# Dropout


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_enlarges_the_rest(rate, dtype):
    x = np.full(100_000, 3, dtype)
    y, _ = layers.dropout(x, rate, np.random.default_rng(0))
    dropped = (y == 0).mean()
    assert abs(dropped - rate) < 5 * math.sqrt(rate * (1 - rate) / len(x))
    np.testing.assert_allclose(y[y != 0], 3 / (1 - rate), rtol=1e-6)


def test_dropout_repeats_by_seed():
    x = np.ones((20, 20))
    first, again, other = (
        layers.dropout(x, 0.5, np.random.default_rng(seed))[0] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_dropout_drops_the_same_entries_of_the_gradient():
    x = np.ones((20, 20))
    y, pullback = layers.dropout(x, 0.5, np.random.default_rng(0))
    assert np.array_equal(pullback(x), y)


@pytest.mark.parametrize(("rate", "dice"), [(0.5, None), (0.0, np.random.default_rng(0))])
def test_dropout_is_off_without_a_generator_and_at_rate_0(rate, dice):
    x = np.ones((20, 20))
    y, pullback = layers.dropout(x, rate, dice)
    assert np.array_equal(y, x)
    assert np.array_equal(pullback(x), x)


# Drop path


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_drop_path_drops_whole_images_at_its_rate_and_enlarges_the_rest(rate, dtype):
    x = 1 + np.random.default_rng(1).random((20_000, 2, 3)).astype(dtype)
    y, pullback = layers.drop_path(x, rate, np.random.default_rng(0))
    dropped = (y == 0).all((1, 2))
    assert np.array_equal(dropped, (y == 0).any((1, 2)))
    assert abs(dropped.mean() - rate) < 5 * math.sqrt(rate * (1 - rate) / len(x))
    np.testing.assert_allclose(y[~dropped], x[~dropped] / (1 - rate), rtol=1e-6)
    assert np.array_equal(pullback(x), y)  # the gradient loses the same images


@pytest.mark.parametrize(("rate", "dice"), [(0.5, None), (0.0, np.random.default_rng(0))])
def test_drop_path_is_off_without_a_generator_and_at_rate_0(rate, dice):
    x = np.ones((20, 2, 3))
    y, pullback = layers.drop_path(x, rate, dice)
    assert y is x
    assert pullback(x) is x


@pytest.mark.parametrize("dice", [None, np.random.default_rng(0)])
@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_drop_path_refuses_what_is_no_rate(rate, dice):
    with pytest.raises(ValueError, match="rate from 0 to below 1"):
        layers.drop_path(np.ones((2, 3)), rate, dice)


def tiny_vit(depth, drop_path):
    """A configuration, its parameters far from zero, and the outputs of its blocks by name."""
    config = ViTConfig(
        image_size=4, patch_size=2, channels=1, classes=3, width=4, depth=depth, heads=2,
        mlp_width=6, drop_path=drop_path,
    )  # fmt: skip
    params = perturb(initialise(config, dtype="float64"), np.random.default_rng(0))
    images = np.random.default_rng(1).normal(size=(2000, 4, 4, 1))

    def outputs(seed):
        seen, dice = {}, None if seed is None else np.random.default_rng(seed)
        vit(images, params, config, dice, watch=seen.__setitem__)
        return seen

    return config, outputs


def test_blocks_and_models_that_leave_out_branches_have_their_derivative():
    proofs = [proof for proof in all_cases() if "drop path" in proof.name]
    assert len(proofs) == 2
    for proof in proofs:
        errors = proof.check()
        assert errors.worst <= 1e-12, f"{proof.name}: {errors}"


def test_the_rate_of_drop_path_grows_along_a_line_from_the_first_block_to_the_last():
    config, _ = tiny_vit(depth=5, drop_path=0.4)
    rates = [config.of_block(i).drop_path for i in range(5)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-15)
    assert tiny_vit(depth=1, drop_path=0.4)[0].of_block(0).drop_path == 0


def test_each_block_leaves_out_its_branches_at_its_own_rate():
    _, outputs = tiny_vit(depth=3, drop_path=0.8)
    seen, still = outputs(seed=5), outputs(seed=None)
    assert np.array_equal(seen["blocks/0/output"], still["blocks/0/output"])  # its rate is 0
    z = seen["blocks/0/output"]
    for i, rate in ((1, 0.4), (2, 0.8)):
        out = seen[f"blocks/{i}/output"]
        passed = (out == z).all((1, 2)).mean()  # both branches left out, each by itself
        assert abs(passed - rate**2) < 5 * math.sqrt(rate**2 * (1 - rate**2) / len(z))
        z = out
    assert not (still["blocks/2/output"] == still["blocks/1/output"]).all((1, 2)).any()


# Pooling, heads and losses


def test_class_pool_takes_the_first_token_and_mean_pool_them_all():
    z = np.random.default_rng(0).normal(size=(2, 3, 4))
    assert np.array_equal(layers.class_pool(z)[0], [image[0] for image in z])
    mean = [[sum(image[:, d]) / 3 for d in range(4)] for image in z]
    close(layers.mean_pool(z)[0], mean)


def test_pretraining_head():
    rng = np.random.default_rng(0)
    y, hidden, head = rng.normal(size=(2, 4)), weights(rng, 4, 3), weights(rng, 3, 5)
    expected = np.zeros((2, 5))
    for b, c in np.ndindex(2, 5):
        inner = [math.tanh(y[b] @ hidden["kernel"][:, r] + hidden["bias"][r]) for r in range(3)]
        expected[b, c] = sum(inner * head["kernel"][:, c]) + head["bias"][c]
    close(layers.pretraining_head(y, hidden, head)[0], expected)


def cross_entropy_in_loops(logits, targets):
    total = 0
    for row, target in zip(logits, targets, strict=True):
        p = softmax_in_loops(row)
        total -= sum(t * math.log(chance) for t, chance in zip(target, p, strict=True))
    return total / len(logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_cross_entropy(smoothing, dtype):
    logits, labels = np.random.default_rng(0).normal(size=(3, 4)), [2, 0, 3]
    targets = [
        [(1 - smoothing) * (c == label) + smoothing / 4 for c in range(4)] for label in labels
    ]
    loss, _ = layers.cross_entropy(logits, np.array(labels, dtype), smoothing)
    close(loss, cross_entropy_in_loops(logits, targets))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_with_soft_targets(smoothing):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(3, 4)), rng.uniform(size=(3, 4))  # not of mass one
    smoothed = (1 - smoothing) * targets + smoothing / 4
    loss, _ = layers.cross_entropy(logits, targets, smoothing)
    close(loss, cross_entropy_in_loops(logits, smoothed))


def test_labels_are_targets_with_a_single_one():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 4)), np.array([2, 0, 3])
    loss, pullback = layers.cross_entropy(logits, labels, 0.1)
    same_loss, same_back = layers.cross_entropy(logits, np.eye(4)[labels], 0.1)
    assert loss == same_loss
    assert np.array_equal(pullback(), same_back())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_large_logits_is_finite(dtype):
    logits = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0]], dtype)
    loss, pullback = layers.cross_entropy(logits, np.array([0, 1]))
    assert loss == 1e4  # nothing for the first, 2e4 for the second
    close(pullback(), [[0, 0, 0], [0.5, -0.5, 0]])
    assert np.isfinite(layers.cross_entropy(logits, np.array([0, 1]), 0.1)[0])


@pytest.mark.parametrize("label", [4, -1, 1000])
def test_a_label_that_is_no_class_is_refused(label):
    message = f"label {label} is out of range: with 4 classes they go from 0 to 3"
    with pytest.raises(ValueError, match=message):
        layers.cross_entropy(np.zeros((2, 4)), np.array([3, label]))


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 3), ()])
def test_labels_of_another_shape_are_refused(shape):
    message = re.escape(f"labels of shape {shape} for logits of shape (2, 4)")
    with pytest.raises(ValueError, match=message):
        layers.cross_entropy(np.zeros((2, 4)), np.zeros(shape, int))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool"])
def test_labels_that_are_no_integers_are_refused(dtype):
    with pytest.raises(TypeError, match=f"labels are class numbers, integers; these are {dtype}"):
        layers.cross_entropy(np.zeros((2, 4)), np.zeros(2, dtype))


def test_mean_squared_error():
    y, target = np.random.default_rng(0).normal(size=(2, 3, 4))
    total = sum((y[index] - target[index]) ** 2 for index in np.ndindex(3, 4))
    close(layers.mean_squared_error(y, target)[0], total / 12)


def test_a_loss_pulls_back_1_unless_told_otherwise():
    rng = np.random.default_rng(0)
    _, entropy_back = layers.cross_entropy(rng.normal(size=(3, 4)), np.array([2, 0, 3]))
    _, error_back = layers.mean_squared_error(rng.normal(size=3), rng.normal(size=3))
    for pullback in (entropy_back, error_back):
        assert np.array_equal(pullback(), pullback(1))
        close(np.array(pullback(3)), 3 * np.array(pullback()))


@pytest.mark.parametrize("shape", [(2, 1), (3,), (3, 2), ()])
def test_the_squared_error_of_unlike_shapes_is_refused(shape):
    # NumPy would broadcast three of these without a word.
    with pytest.raises(ValueError, match=re.escape(f"shapes differ: (2, 3) and {shape}")):
        layers.mean_squared_error(np.zeros((2, 3)), np.zeros(shape))


# The layers of the hybrid's ResNet


def frame(n, side, stride):
    """TensorFlow's SAME, in its own words: (windows, padding before, padding behind)."""
    windows = math.ceil(n / stride)
    last = side - stride if n % stride == 0 else side - n % stride
    padding = max(last, 0)
    return windows, padding // 2, math.ceil(padding / 2)


@pytest.mark.parametrize(
    ("n", "side", "stride", "windows", "before", "behind"),
    [
        (224, 7, 2, 112, 2, 3),  # the root, at the usual size
        (225, 7, 2, 113, 3, 3),
        (112, 3, 2, 56, 0, 1),  # max pooling, and the 3 x 3 of a stage's first unit
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
def test_same_padding(n, side, stride, windows, before, behind):
    assert frame(n, side, stride) == (windows, before, behind)
    assert same_padding(n, side, stride) == (before, behind)
    x, kernel = np.ones((1, n, 1, 1)), np.ones((side, 1, 1, 1))
    y = layers.convolution(x, kernel, stride)[0][0, :, 0, 0]
    assert len(y) == windows
    starts = [stride * place - before for place in range(windows)]
    # Of a window of ones, how much lies on the image.
    assert y.tolist() == [min(start + side, n) - max(start, 0) for start in starts]


def windows_in_loops(x, sides, stride):
    """((b, y, x), [(i, j, what is seen there)]) for every window; the padding is not seen."""
    B, H, W, _ = x.shape
    h, top, _ = frame(H, sides[0], stride)
    w, left, _ = frame(W, sides[1], stride)
    for b, row, column in np.ndindex(B, h, w):
        seen = []
        for i, j in np.ndindex(*sides):
            r, c = stride * row - top + i, stride * column - left + j
            if 0 <= r < H and 0 <= c < W:
                seen.append((i, j, x[b, r, c]))
        yield (b, row, column), seen


def map_of(x, sides, stride, channels):
    h, w = frame(x.shape[1], sides[0], stride)[0], frame(x.shape[2], sides[1], stride)[0]
    return np.zeros((len(x), h, w, channels))


def convolution_in_loops(x, kernel, stride):
    y = map_of(x, kernel.shape[:2], stride, kernel.shape[3])
    for place, seen in windows_in_loops(x, kernel.shape[:2], stride):
        for i, j, pixel in seen:
            y[place] += pixel @ kernel[i, j]
    return y


def max_pool_in_loops(x, side, stride):
    y = map_of(x, (side, side), stride, x.shape[3])
    for place, seen in windows_in_loops(x, (side, side), stride):
        y[place] = np.max([pixel for _, _, pixel in seen], axis=0)
    return y


@quick
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3)
)
def test_convolution(H, W, kh, kw, stride):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, H, W, 2)), rng.normal(size=(kh, kw, 2, 3))
    close(layers.convolution(x, kernel, stride)[0], convolution_in_loops(x, kernel, stride), 1e-12)


def test_a_1_x_1_convolution_is_a_linear_layer_and_copies_nothing():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 4, 3, 5)), rng.normal(size=(1, 1, 5, 6))
    assert np.shares_memory(extract_windows(x, (1, 1), 1), x)
    assert np.array_equal(layers.convolution(x, kernel)[0], layers.linear(x, kernel[0, 0])[0])


def test_an_odd_stride_pads_behind():
    # With as much padding before as behind, the first window would not begin on the first pixel.
    x = np.arange(1.0, 5).reshape(1, 1, 4, 1)
    kernel = np.array([1.0, 10, 100]).reshape(1, 3, 1, 1)
    assert layers.convolution(x, kernel, 2)[0].ravel().tolist() == [321, 43]
    assert layers.convolution(x, kernel, 1)[0].ravel().tolist() == [210, 321, 432, 43]


def test_standardise():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 2, 4, 5)) * rng.uniform(0.1, 9, size=5) + rng.normal(size=5)
    expected = np.empty_like(kernel)
    for e in range(5):
        w = kernel[..., e]
        mean = w.sum() / 24
        sigma = math.sqrt(((w - mean) ** 2).sum() / 24)
        expected[..., e] = (w - mean) / (sigma + 1e-5)
    close(layers.standardise(kernel)[0], expected)


def test_the_eps_of_standardise_stands_beside_the_deviation():
    # Weights of deviation 1e-5 come out with 1/2. Inside the root, 1e-10 would give 1/√2.
    w = np.array([1e-5, -1e-5] * 2).reshape(2, 2, 1, 1)
    close(layers.standardise(w)[0].ravel(), [0.5, -0.5, 0.5, -0.5], 1e-11)


def test_standardise_forgets_the_mean_of_the_weights():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
    value, pullback = layers.standardise(kernel)
    close(layers.standardise(kernel + 5)[0], value, 1e-12)
    dkernel = pullback(np.random.default_rng(1).normal(size=kernel.shape))
    close(dkernel.sum((0, 1, 2)), 0)


@pytest.mark.filterwarnings("error")
def test_constant_weights_come_out_as_zeros():
    kernel = np.full((3, 3, 2, 4), 0.25)
    value, pullback = layers.standardise(kernel)
    assert not value.any()
    assert np.isfinite(pullback(np.random.default_rng(0).normal(size=kernel.shape))).all()


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm(groups):
    rng = np.random.default_rng(0)
    x, scale, bias = 3 + rng.normal(size=(2, 3, 4, 6)), rng.normal(size=6), rng.normal(size=6)
    expected = np.empty_like(x)
    size = 6 // groups
    for b, g in np.ndindex(2, groups):
        channels = slice(g * size, (g + 1) * size)
        group = x[b, :, :, channels]
        mean = group.sum() / group.size
        sigma = math.sqrt(((group - mean) ** 2).sum() / group.size + 0.1)
        expected[b, :, :, channels] = (group - mean) / sigma
    close(layers.group_norm(x, scale, bias, groups, eps=0.1)[0], expected * scale + bias, 1e-12)


def test_group_norm_has_the_groups_and_the_eps_of_the_authors():
    rng = np.random.default_rng(0)
    x, scale, bias = 1e-3 * rng.normal(size=(1, 2, 2, 64)), np.ones(64), np.zeros(64)
    given = layers.group_norm(x, scale, bias, groups=32, eps=1e-6)[0]
    assert np.array_equal(layers.group_norm(x, scale, bias)[0], given)


def test_group_norm_of_one_group_on_one_place_is_layer_norm():
    rng = np.random.default_rng(0)
    x, scale, bias = rng.normal(size=(3, 1, 1, 6)), rng.normal(size=6), rng.normal(size=6)
    close(layers.group_norm(x, scale, bias, 1)[0], layers.layer_norm(x, scale, bias)[0])


def test_group_norm_in_float32_keeps_a_large_mean_out_of_the_variance():
    # E[x²] - E[x]² would have nothing left of a variance of 1 beside a mean of 3000.
    rng = np.random.default_rng(0)
    x = (3000 + rng.normal(size=(2, 8, 8, 4))).astype(np.float32)
    scale, bias = np.ones(4, np.float32), np.zeros(4, np.float32)
    wide = layers.group_norm(x.astype(float), np.ones(4), np.zeros(4), 2)[0]
    assert abs(layers.group_norm(x, scale, bias, 2)[0] - wide).max() < 1e-3


def test_group_norm_refuses_groups_that_do_not_share_the_channels():
    with pytest.raises(ValueError, match="48 channels cannot be shared among 32 groups"):
        layers.group_norm(np.ones((1, 2, 2, 48)), np.ones(48), np.zeros(48))


def test_relu():
    y, pullback = layers.relu(np.array([-2.0, -0.0, 0.0, 3.0]))
    assert y.tolist() == [0, 0, 0, 3]
    assert pullback(np.ones(4)).tolist() == [0, 0, 0, 1]


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3))
def test_max_pool(H, W, side, stride):
    # All below zero: padding with zeros would win at every border.
    x = -1 - abs(np.random.default_rng(0).normal(size=(2, H, W, 3)))
    assert np.array_equal(layers.max_pool(x, side, stride)[0], max_pool_in_loops(x, side, stride))


def test_max_pool_is_3_x_3_of_stride_2_unless_told_otherwise():
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3))
    assert np.array_equal(layers.max_pool(x)[0], max_pool_in_loops(x, 3, 2))


def test_the_first_of_equals_has_the_gradient_of_max_pool():
    x = np.zeros((1, 4, 4, 1))
    y, pullback = layers.max_pool(x)
    assert y.shape == (1, 2, 2, 1)
    dx = pullback(np.array([1.0, 10, 100, 1000]).reshape(1, 2, 2, 1))[0, :, :, 0]
    expected = np.zeros((4, 4))
    expected[::2, ::2] = [[1, 10], [100, 1000]]  # where each window begins
    assert np.array_equal(dx, expected)
    x[0, 2, 2] = 7  # seen by all four windows
    assert layers.max_pool(x)[1](np.ones((1, 2, 2, 1)))[0, 2, 2, 0] == 4
