"""Where a model looks, which looks matter, what it has learned, and the figures of all that."""

import importlib
import itertools
import math
import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import pyplot as plt
from helpers.on_device import xp

from minivit import ViT, ViTConfig, data, flatten, unflatten
from minivit.analysis import (
    attention_gradients,
    attention_rollout,
    box_area_fraction,
    fraction_in_box,
    gradient_weighted_rollout,
    gradient_weighted_sum,
    localisation_scores,
    mean_attention_distance,
    overlay,
    patch_filters,
    patch_maps,
    plot_attention,
    plot_curves,
    plot_distances,
    plot_filters,
    plot_gradients,
    plot_overlays,
    plot_similarity,
    plots,
    position_similarity,
    position_table,
)
from minivit.analysis import localisation as boxes
from minivit.analysis.plots import figures
from minivit.analysis.plots import model as drawing
from minivit.analysis.plots import overlay as overlays
from minivit.layers import softmax
from minivit.models import infer


def random_attention(*shape, dtype="float64"):
    """Rows of positive numbers that sum to one."""
    return softmax(np.random.default_rng(0).normal(size=shape).astype(dtype))[0]


# --- patch_maps ------------------------------------------------------------------------------


def test_the_map_is_the_row_of_the_class_token_without_itself():
    A = np.arange(49.0).reshape(7, 7)
    assert patch_maps(A, (2, 3)).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_without_a_class_token_it_is_the_mean_of_all_patches():
    A = np.arange(36.0).reshape(6, 6)
    assert patch_maps(A, (3, 2)).tolist() == [[15, 16], [17, 18], [19, 20]]


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (4, 2, 3)])
def test_any_number_of_axes_may_lead(leading):
    A = random_attention(*leading, 7, 7)
    maps = patch_maps(A, (2, 3))
    assert maps.shape == (*leading, 2, 3)
    for place in np.ndindex(leading):
        assert np.array_equal(maps[place], patch_maps(A[place], (2, 3)))


@pytest.mark.parametrize(("T", "share"), [(7, 1 / 7), (6, 1 / 6)])
def test_uniform_attention_gives_a_flat_map(T, share):
    uniform = np.full((3, 2, 4, T, T), 1 / T)
    np.testing.assert_allclose(patch_maps(uniform, (2, 3)), share, rtol=1e-14)
    flow = patch_maps(attention_rollout(uniform), (2, 3))
    np.testing.assert_allclose(flow, flow[0, 0, 0], rtol=1e-14)


@pytest.mark.parametrize("T", [1, 5, 8, 12])
def test_tokens_that_do_not_fit_the_grid_are_refused(T):
    with pytest.raises(ValueError, match=f"{T} tokens do not fit a grid of 2 x 3 patches"):
        patch_maps(random_attention(T, T), (2, 3))


# --- rollout ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_rows_of_a_rollout_sum_to_one(layers, dtype):
    flow = attention_rollout(random_attention(layers, 3, 2, 7, 7, dtype=dtype))
    assert flow.shape == (3, 7, 7)
    assert flow.dtype == dtype
    assert (flow >= 0).all()
    np.testing.assert_allclose(flow.sum(-1), 1, rtol=1e-6)


def test_attention_to_oneself_stays_where_it_is():
    A = np.broadcast_to(np.eye(7), (4, 3, 2, 7, 7))
    np.testing.assert_array_equal(attention_rollout(A), np.broadcast_to(np.eye(7), (3, 7, 7)))


def test_half_of_each_token_passes_through_the_residual_connection():
    A = np.zeros((1, 1, 1, 2, 2))
    A[..., 1] = 1  # everyone looks at the second token
    assert attention_rollout(A)[0].tolist() == [[0.5, 0.5], [0, 1]]


def test_later_layers_multiply_on_the_left():
    attention = random_attention(2, 1, 2, 3, 3)  # two layers, two heads, three tokens
    mixed = [[[0.0] * 3 for _ in range(3)] for _ in range(2)]
    for layer in range(2):
        for i in range(3):
            for j in range(3):
                heads = attention[layer, 0, 0, i, j] + attention[layer, 0, 1, i, j]
                mixed[layer][i][j] = (heads / 2 + (i == j)) / 2
    first, second = mixed
    expected = [
        [sum(second[i][t] * first[t][j] for t in range(3)) for j in range(3)] for i in range(3)
    ]
    swapped = [
        [sum(first[i][t] * second[t][j] for t in range(3)) for j in range(3)] for i in range(3)
    ]
    np.testing.assert_allclose(attention_rollout(attention)[0], expected, rtol=1e-13)
    assert abs(np.array(expected) - swapped).max() > 1e-3  # the order does matter here


def test_a_chain_of_looks_is_followed_back_to_its_start():
    A = np.zeros((2, 1, 1, 3, 3))
    A[0, 0, 0] = [[1, 0, 0], [0, 0, 1], [0, 0, 1]]  # first, token 1 takes from token 2
    A[1, 0, 0] = [[0, 1, 0], [0, 1, 0], [0, 0, 1]]  # then, token 0 takes from token 1
    assert attention_rollout(A)[0, 0].tolist() == [0.5, 0.25, 0.25]


def test_the_images_of_a_batch_do_not_meet():
    attention = random_attention(3, 4, 2, 5, 5)
    alone = [attention_rollout(attention[:, b : b + 1])[0] for b in range(4)]
    np.testing.assert_allclose(attention_rollout(attention), alone, rtol=1e-13)


# --- how far the heads look ------------------------------------------------------------------

UNIFORM = [  # grid, patch side, distance of uniform attention without a class token (FACTS)
    ((14, 14), 16, 116.492),
    ((7, 7), 32, 115.503),
    ((24, 24), 16, 200.048),
    ((12, 12), 32, 199.506),
    ((16, 16), 14, 116.565),
    ((8, 8), 4, 16.546),
]


@pytest.mark.parametrize(("grid", "patch_size", "expected"), UNIFORM)
def test_uniform_attention_has_the_known_distance(grid, patch_size, expected):
    N = grid[0] * grid[1]
    A = np.full((1, 1, 1, N, N), 1 / N)
    assert mean_attention_distance(A, grid, patch_size)[0, 0] == pytest.approx(expected, abs=1e-3)
    A = np.full((1, 1, 1, N + 1, N + 1), 1 / (N + 1))
    with_class = mean_attention_distance(A, grid, patch_size)[0, 0]
    assert with_class == pytest.approx(expected * N / (N + 1), abs=1e-3)
    renormalised = mean_attention_distance(A, grid, patch_size, renormalise=True)[0, 0]
    assert renormalised == pytest.approx(expected, abs=1e-3)


def test_the_farthest_look_goes_across_the_diagonal():
    A = np.zeros((1, 1, 1, 196, 196))
    A[..., 0, 195] = 1  # one query of 196
    assert 196 * mean_attention_distance(A, (14, 14), 16)[0, 0] == pytest.approx(294.156, abs=1e-3)


@pytest.mark.parametrize("T", [6, 7])
def test_looking_at_oneself_is_no_distance(T):
    A = np.broadcast_to(np.eye(T), (2, 3, 4, T, T))
    assert mean_attention_distance(A, (2, 3), 16).tolist() == [[0] * 4] * 2


def test_the_distance_is_of_each_head_a_mean_over_queries_and_images():
    attention = random_attention(2, 3, 4, 7, 7)
    expected = np.zeros((2, 4))
    for layer, image, head, i, j in itertools.product(*map(range, (2, 3, 4, 6, 6))):
        (r, c), (s, d) = divmod(i, 3), divmod(j, 3)  # a grid of two rows and three columns
        share = attention[layer, image, head, 1 + i, 1 + j]
        expected[layer, head] += share * 5 * math.hypot(r - s, c - d) / (3 * 6)
    found = mean_attention_distance(attention, (2, 3), 5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert abs(mean_attention_distance(attention, (3, 2), 5) - expected).max() > 1e-3


def test_who_looks_at_the_class_token_alone_has_no_distance_even_if_renormalised():
    A = np.zeros((1, 1, 1, 7, 7))
    A[..., 0] = 1
    assert mean_attention_distance(A, (2, 3), 4).tolist() == [[0]]
    assert mean_attention_distance(A, (2, 3), 4, renormalise=True).tolist() == [[0]]


def test_a_distance_needs_tokens_that_fit():
    with pytest.raises(ValueError, match="8 tokens do not fit a grid of 2 x 3 patches"):
        mean_attention_distance(random_attention(1, 1, 1, 8, 8), (2, 3), 4)


# --- which looks matter ----------------------------------------------------------------------


def moved(**fields):
    """A small model in float64 whose attention is far from uniform."""
    sizes = {"image_size": (4, 6), "patch_size": 2, "channels": 1, "classes": 5}
    config = ViTConfig(**sizes | {"width": 8, "depth": 2, "heads": 2, "mlp_width": 7} | fields)
    model = ViT.create(config, dtype="float64")
    rng = np.random.default_rng(21)
    for leaf in flatten(model.params).values():
        leaf += 0.5 * rng.normal(size=leaf.shape)
    return model


def pictures(n=3, size=(4, 6)):
    return np.random.default_rng(4).uniform(-1, 1, (n, *size, 1))


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_gradient_is_how_the_logit_follows_a_change_of_the_attention(
    monkeypatch, pooling, layer
):
    model, images, classes = moved(pooling=pooling), pictures(), [4, 0, 2]
    A, dA = attention_gradients(model, images, classes)
    T = model.config.tokens
    assert A.shape == dA.shape == (2, 3, 2, T, T)
    change = 1e-30j * np.random.default_rng(5).normal(size=A.shape[1:])  # the complex step
    calls = itertools.count()

    def changed_softmax(x, out=None):
        y, pullback = softmax(x, out)
        return (y + change if next(calls) == layer else y), pullback

    attention = importlib.import_module("minivit.layers.attention")
    monkeypatch.setattr(attention, "softmax", changed_softmax)
    logits = infer(images, model.params, model.config)[np.arange(3), classes]  # (B,)
    expected = (dA[layer] * change.imag).sum((1, 2, 3))
    assert abs(logits.imag).min() > 1e-33
    np.testing.assert_allclose(logits.imag, expected, rtol=1e-10)


def test_the_probabilities_come_along():
    model, images = moved(), pictures()
    A, _ = attention_gradients(model, images, [0, 0, 0])
    np.testing.assert_allclose(A, model.attention(images), rtol=1e-12)


def test_without_classes_the_gradient_is_of_the_likeliest():
    model, images = moved(), pictures(6)
    likeliest = model(images).argmax(-1)
    assert len(set(likeliest)) > 1
    _, found = attention_gradients(model, images)
    assert np.array_equal(found, attention_gradients(model, images, likeliest)[1])
    assert not np.allclose(found, attention_gradients(model, images, (likeliest + 1) % 5)[1])


def test_one_forward_pass_is_enough(monkeypatch):
    model, sizes = moved(), []
    forward = ViT.forward

    def counted(self, images, *args, **kwargs):
        sizes.append(len(images))
        return forward(self, images, *args, **kwargs)

    monkeypatch.setattr(ViT, "forward", counted)
    monkeypatch.setattr(ViT, "__call__", None)
    monkeypatch.setattr(ViT, "attention", None)
    attention_gradients(model, pictures())
    assert sum(sizes) == 3


def test_a_batch_in_shards_gives_the_same(monkeypatch):
    model, images, classes = moved(), pictures(5), np.array([4, 0, 2, 1, 1])
    alone = [attention_gradients(model, images[[b]], classes[[b]]) for b in range(5)]
    monkeypatch.setattr(ViT, "shard_count", lambda *args: 3)
    found = attention_gradients(model, images, classes)
    for one, expected in zip(found, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(one, np.concatenate(expected, 1), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([0, 1], "classes are 3 integers, one for each image"),
        (2, "classes are 3 integers"),
        ([0.0, 1.0, 2.0], "classes are 3 integers"),
        ([0, 1, 5], "classes go from 0 to 4, not from 0 to 5"),
        ([-1, 1, 2], "classes go from 0 to 4, not from -1 to 2"),
    ],
)
def test_classes_that_are_none_are_refused(classes, message):
    with pytest.raises(ValueError, match=message):
        attention_gradients(moved(), pictures(), classes)


def test_images_that_do_not_fit_are_refused_for_their_gradients_too():
    with pytest.raises(ValueError, match="image 2 of the batch has pixels that are NaN"):
        attention_gradients(moved(), np.concatenate([pictures(2), np.full((1, 4, 6, 1), np.nan)]))


def test_only_looks_that_speak_for_the_class_count_head_by_head():
    A, dA = np.zeros((2, 1, 1, 2, 2, 2))
    A[:] = [[0.5, 0.5], [0.25, 0.75]]
    dA[0, 0, 0] = [[0, 8], [0, 0]]
    dA[0, 0, 1] = [[0, -8], [4, 0]]  # the second head's no does not undo the first one's yes
    expected = [[0, 2], [0.5, 0]]
    assert gradient_weighted_rollout(A, dA)[0].tolist() == expected
    assert gradient_weighted_sum(A, dA)[0].tolist() == expected


def test_relevance_passes_through_the_layers_by_hand():
    attention = random_attention(3, 1, 2, 4, 4)
    gradients = np.random.default_rng(6).normal(size=attention.shape)
    R, total = np.eye(4), np.zeros((4, 4))
    for layer in range(3):
        A_bar = np.zeros((4, 4))
        for head, i, j in itertools.product(range(2), range(4), range(4)):
            at = layer, 0, head, i, j
            A_bar[i, j] += max(attention[at] * gradients[at], 0) / 2
        R = R + A_bar @ R
        total += A_bar
    found = gradient_weighted_rollout(attention, gradients)
    assert found.shape == (1, 4, 4)
    np.testing.assert_allclose(found[0], R - np.eye(4), rtol=1e-12)
    np.testing.assert_allclose(gradient_weighted_sum(attention, gradients)[0], total, rtol=1e-12)
    backwards = gradient_weighted_rollout(attention[::-1], gradients[::-1])[0]
    assert abs(backwards - found[0]).max() > 1e-3  # the order does matter here


def test_images_do_not_meet_in_their_relevance():
    attention = random_attention(2, 4, 2, 5, 5)
    gradients = np.random.default_rng(6).normal(size=attention.shape)
    for method in (gradient_weighted_rollout, gradient_weighted_sum):
        alone = [method(attention[:, b : b + 1], gradients[:, b : b + 1])[0] for b in range(4)]
        np.testing.assert_allclose(method(attention, gradients), alone, rtol=1e-12)


def test_without_gradients_nothing_is_relevant():
    attention = random_attention(2, 1, 2, 5, 5)
    assert not gradient_weighted_rollout(attention, 0 * attention).any()
    assert not gradient_weighted_sum(attention, -attention).any()


# --- boxes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "share"),
    [
        ((0, 0, 4, 4), 0.1),  # the first patch
        ((0, 4, 4, 12), 0.2 + 0.3),
        ((4, 8, 8, 12), 0.25),
        ((0, 2, 4, 6), 0.1 / 2 + 0.2 / 2),
        ((3, 11, 5, 12), 0.3 / 16 + 0.25 / 16),
        ((2, 2, 6, 6), (0.1 + 0.2 + 0.05 + 0.1) / 4),
        ((1, 5, 2, 6), 0.2 / 16),  # one pixel
        ((0, 0, 8, 12), 1),
        ((5, 5, 5, 9), 0),
    ],
)
@pytest.mark.parametrize("scale", [1, 7])
def test_a_patch_counts_by_its_area_inside_the_box(box, share, scale):
    maps = scale * np.array([[[0.1, 0.2, 0.3], [0.05, 0.1, 0.25]]])
    assert fraction_in_box(maps, np.array([box]), 4)[0] == pytest.approx(share, rel=1e-12)


def test_a_map_without_any_idea_has_inside_what_the_box_takes_of_the_image():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, [[21, 13]] * 2, size=(50, 2, 2)), axis=1)
    these = corners.reshape(50, 4)  # top, left, bottom, right
    shares = box_area_fraction(these, (20, 12))
    assert 0 <= shares.min() < 0.01 < 0.5 < shares.max() <= 1
    np.testing.assert_allclose(
        fraction_in_box(np.full((50, 5, 3), 0.3), these, 4), shares, atol=1e-12
    )


def test_the_share_of_a_box():
    these = np.array([[4, 3, 12, 11], [0, 0, 24, 24], [0, 0, 12, 24]])
    assert box_area_fraction(these, (24, 24)).tolist() == [1 / 9, 1, 0.5]
    assert box_area_fraction(np.array([[1, 2, 4, 4]]), (10, 12)).tolist() == [6 / 120]


def test_a_map_without_mass_has_none_inside():
    maps = np.zeros((2, 2, 3))
    maps[1, 0, 0] = 1e-30
    assert fraction_in_box(maps, np.array([[0, 0, 4, 4]] * 2), 4).tolist() == [0, 1]


def five_boxes():
    return np.array([[0, 0, 2, 2], [1, 1, 3, 5], [2, 2, 4, 6], [0, 3, 4, 6], [1, 0, 2, 1]])


def test_a_model_that_looks_everywhere_alike_points_at_nothing():
    model = moved()
    for block in model.params["blocks"]:
        block["attention"]["qkv"]["kernel"][:, :16] = 0  # no queries and no keys
        block["attention"]["qkv"]["bias"][:16] = 0
    shares = localisation_scores(model, pictures(5), five_boxes())
    assert shares["chance"] == pytest.approx((4 + 8 + 8 + 12 + 1) / 24 / 5, rel=1e-12)
    assert shares["rollout"] == pytest.approx(shares["chance"], rel=1e-12)
    assert shares["gradient-weighted"] != pytest.approx(shares["chance"], rel=0.01)


@pytest.mark.parametrize("batch", [1, 2, 5, 9])
def test_shares_are_means_over_all_images_however_they_are_cut(monkeypatch, batch):
    monkeypatch.setattr(boxes, "BATCH", batch)
    model, images, these = moved(), pictures(5), five_boxes()
    shares = localisation_scores(model, images, these)
    assert list(shares) == ["rollout", "gradient-weighted", "gradient sum", "chance"]
    maps = {"rollout": attention_rollout(model.attention(images))}
    A, dA = attention_gradients(model, images, model(images).argmax(-1))
    maps |= {
        "gradient-weighted": gradient_weighted_rollout(A, dA),
        "gradient sum": gradient_weighted_sum(A, dA),
    }
    for name, flow in maps.items():
        cells = flow[:, 0, 1:].repeat(4, axis=1).reshape(5, 2, 3, 2, 2)
        pixels = cells.swapaxes(2, 3).reshape(5, 4, 6)  # each patch's mass on its four pixels
        expected = [
            one[top:bottom, left:right].sum() / one.sum()
            for one, (top, left, bottom, right) in zip(pixels, these, strict=True)
        ]
        assert shares[name] == pytest.approx(np.mean(expected), rel=1e-9)
    assert len({round(share, 6) for share in shares.values()}) == 4


# --- what the embedding has learned ----------------------------------------------------------


def test_similarity_is_the_cosine_between_two_places():
    token = [9.0, 9, 9]  # the class token's
    table = np.array([token, [2, 0, 0], [0, 3, 0], [-5, 0, 0], [1, 1, 0], [0, 0, 0], [7, 0, 0]])
    found = position_similarity(table, (2, 3))
    assert found.shape == (2, 3, 2, 3)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(found[0, 0], [[1, 0, -1], [half, 0, 1]], atol=1e-15)
    np.testing.assert_allclose(found[1, 0], [[half, half, -half], [1, 0, half]], atol=1e-15)
    assert not found[1, 1].any()  # zeros are like nothing
    assert np.array_equal(position_similarity(table[1:], (2, 3)), found)


def test_a_table_that_does_not_fit_the_grid_is_refused():
    with pytest.raises(ValueError, match="8 tokens do not fit a grid of 2 x 3"):
        position_similarity(np.ones((8, 4)), (2, 3))


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_the_table_of_learned_positions(pooling):
    model = moved(pooling=pooling)
    assert np.array_equal(position_table(model), model.params["positions"]["table"])
    model = moved(pooling=pooling, positions="2d")
    learned, table = model.params["positions"], position_table(model)
    start = pooling == "class"
    assert len(table) == 6 + start
    assert np.array_equal(table[start + 5], [*learned["columns"][2], *learned["rows"][1]])
    if start:
        assert np.array_equal(table[0], learned["class_token"])


def test_the_table_of_fixed_positions():
    table = position_table(moved(positions="sincos2d"))
    assert not table[0].any()
    x, y, slow = 2, 1, 1e-4  # the last patch; ω is 1 and 1 / 10000
    waves = [math.sin, math.cos]
    expected = [wave(at * omega) for at in (x, y) for wave in waves for omega in (1, slow)]
    np.testing.assert_allclose(table[6], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "message"), [("none", "has no positions"), ("relative", "a table of offsets")]
)
def test_positions_without_a_table_are_named(kind, message):
    with pytest.raises(ValueError, match=message):
        position_table(moved(positions=kind))


def filters_of_two_patterns():
    """40 filters of 2 x 2 x 3, mixed from two patterns and a mean: (kernel, patterns)."""
    rng = np.random.default_rng(8)
    patterns = np.linalg.qr(rng.normal(size=(12, 2)))[0].T  # orthonormal, (2, 12)
    amounts = np.linalg.qr(rng.normal(size=(40, 3)) - [0.1, 0, 0])[0]
    amounts = amounts - amounts.mean(0)
    amounts = np.linalg.qr(amounts[:, :2])[0] * [2, 1]  # variances 4 : 1, no mean
    filters = 50 * rng.normal(size=12) + amounts @ patterns
    return filters.T.copy(), patterns


def test_the_components_are_the_patterns_that_the_filters_vary_by():
    kernel, patterns = filters_of_two_patterns()
    found, shares = patch_filters(kernel, 2, 2)
    assert found.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(shares, [0.8, 0.2], rtol=1e-9)
    for one, pattern in zip(found, patterns, strict=True):
        signed = pattern if pattern.max() == abs(pattern).max() else -pattern
        expected = (signed - signed.min()) / (signed.max() - signed.min())
        np.testing.assert_allclose(one.reshape(-1), expected, atol=1e-9)
        assert (one.min(), one.max()) == (0, 1)


def test_the_sign_of_a_component_is_no_accident():
    kernel = np.random.default_rng(9).normal(size=(12, 30)).astype("float32")
    found, shares = patch_filters(kernel, 2, 12)
    again, _ = patch_filters(-kernel, 2, 12)
    np.testing.assert_allclose(found, again, atol=1e-9)
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) < 0).all()


@pytest.mark.parametrize(("shape", "most"), [((12, 30), 12), ((12, 9), 8)])
def test_there_are_no_more_components_than_numbers_or_filters(shape, most):
    kernel = np.random.default_rng(9).normal(size=shape)
    assert len(patch_filters(kernel, 2, most)[0]) == most
    for count in (most + 1, 0, -1):
        with pytest.raises(ValueError, match=f"have 1 to {most} components, not {count}"):
            patch_filters(kernel, 2, count)
    with pytest.raises(ValueError, match="have 1 to"):
        patch_filters(kernel, 2)


def test_a_patch_that_does_not_fit_the_kernel_is_refused():
    with pytest.raises(ValueError, match="a kernel of 12 rows is not of patches of side 4"):
        patch_filters(np.ones((12, 30)), 4, 1)


# --- on a device's arrays --------------------------------------------------------------------

A3, G3 = random_attention(2, 3, 2, 7, 7), np.random.default_rng(6).normal(size=(2, 3, 2, 7, 7))
M3, BOXES3 = abs(G3[0, :, 0, :2, :3]), np.array([[0, 1, 3, 4], [1, 1, 2, 5], [2, 3, 4, 6]])
ON_DEVICE = {
    "patch_maps": (lambda A: patch_maps(A, (2, 3)), A3),
    "rollout": (attention_rollout, A3),
    "mean_attention_distance": (lambda A: mean_attention_distance(A, (2, 3), 4), A3),
    "renormalised": (lambda A: mean_attention_distance(A, (2, 3), 4, renormalise=True), A3),
    "gradient_weighted": (gradient_weighted_rollout, A3, G3),
    "gradient_sum": (gradient_weighted_sum, A3, G3),
    "mass_inside": (lambda maps, b: fraction_in_box(maps, b, 2), M3, BOXES3),
    "position_similarity": (lambda table: position_similarity(table, (2, 3)), G3[0, 0, 0]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ON_DEVICE)
def test_it_works_on_the_device_and_keeps_the_dtype(name, dtype):
    function, *arguments = ON_DEVICE[name]
    arguments = [a.astype(dtype) if a.dtype.kind == "f" else a for a in arguments]
    expected = function(*arguments)
    found = function(*map(xp.asarray, arguments))
    assert type(found) is xp.ndarray
    assert found.dtype == expected.dtype == dtype
    np.testing.assert_allclose(found.get(), expected, rtol=1e-4, atol=1e-6)


def test_the_share_of_boxes_on_the_device():
    assert box_area_fraction(xp.asarray(BOXES3), (4, 6)).get().tolist() == [9 / 24, 4 / 24, 6 / 24]


@pytest.mark.parametrize("positions", ["1d", "2d", "sincos2d"])
def test_a_model_on_the_device_gives_its_gradients_and_its_table(positions):
    model, images = moved(positions=positions), pictures()
    leaves = {name: xp.asarray(leaf) for name, leaf in flatten(model.params).items()}
    device = ViT(model.config, unflatten(leaves))
    found = attention_gradients(device, xp.asarray(images), [4, 0, 2])
    for one, other in zip(found, attention_gradients(model, images, [4, 0, 2]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(position_table(device).get(), position_table(model), rtol=1e-12)


# --- the figures -----------------------------------------------------------------------------

LOG = [
    {"epoch": 1, "loss": 2.0, "held_out_loss": 1.5, "held_out_accuracy": 0.50},
    {"epoch": 2, "loss": 1.0, "held_out_loss": 0.8, "held_out_accuracy": 0.75},
    {"epoch": 3, "loss": 0.5, "held_out_loss": 0.6, "held_out_accuracy": 0.98},
]


@pytest.fixture
def figure(monkeypatch):
    """The figure that the next plot would write, still open: a list of one."""
    drawn = []
    for module in (plots, figures, overlays):
        monkeypatch.setattr(module, "save_figure", lambda one, path: drawn.append(one))
    yield drawn
    for one in drawn:
        plt.close(one)


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    yield
    left = plt.get_fignums()
    plt.close("all")
    assert left == []


def images_and_attention(channels=1):
    images = np.random.default_rng(1).uniform(-1, 1, (2, 4, 6, channels)).astype("float32")
    return images, random_attention(3, 2, 2, 7, 7, dtype="float32")


def test_attention_has_a_row_an_image_and_a_column_a_head(figure):
    images, attention = images_and_attention()
    plot_attention(images, attention, (2, 3), "unused", ["a seven", "a one"])
    axes = figure[0].axes
    assert len(axes) == 2 * 4
    titles = [axis.get_title() for axis in axes]
    assert titles == ["image", "rollout", "layer 3, head 1", "layer 3, head 2", *[""] * 4]
    assert [axis.get_ylabel() for axis in axes if axis.get_ylabel()] == ["a seven", "a one"]


@pytest.mark.parametrize(("layer", "number"), [(0, 1), (1, 2), (2, 3), (-1, 3), (-3, 1)])
def test_the_maps_are_those_of_the_layer(figure, layer, number):
    images, attention = images_and_attention()
    plot_attention(images, attention, (2, 3), "unused", layer=layer)
    axes = figure[0].axes
    assert axes[2].get_title() == f"layer {number}, head 1"
    shown = [np.asarray(axis.get_images()[0].get_array()) for axis in axes]
    flow, heads = (
        patch_maps(attention_rollout(attention), (2, 3)),
        patch_maps(attention[layer], (2, 3)),
    )
    for b in range(2):
        grey, *maps = shown[4 * b : 4 * b + 4]
        np.testing.assert_allclose(grey, (images[b, ..., 0] + 1) / 2, atol=1e-6)
        np.testing.assert_allclose(maps[0], flow[b], atol=1e-7)
        np.testing.assert_allclose(maps[1:], heads[b], atol=1e-7)


def test_colours_are_shown_as_colours(figure):
    images, attention = images_and_attention(channels=3)
    plot_attention(images, attention, (2, 3), "unused")
    shown = np.asarray(figure[0].axes[0].get_images()[0].get_array())
    np.testing.assert_allclose(shown, (images[0] + 1) / 2, atol=1e-6)


def shown_in(axis):
    """The array that an axis shows, and where: left, right, bottom, top."""
    (image,) = axis.get_images()
    return np.asarray(image.get_array()), image.get_extent()


def box_in(axis):
    """Left, top, width and height of the box that is drawn in an axis, if there is one."""
    return [frame.get_bbox().bounds for frame in axis.patches]


BOXES = np.array([[0, 1, 2, 5], [1, 2, 4, 6]])


def test_gradients_bring_a_column_and_boxes_an_outline_on_all(figure):
    images, attention = images_and_attention()
    gradients = np.random.default_rng(2).normal(size=attention.shape).astype("float32")
    plot_attention(images, attention, (2, 3), "unused", (), -1, gradients, BOXES)
    axes = np.reshape(figure[0].axes, (2, 5))
    titles = [axis.get_title() for axis in axes[0]]
    assert titles == [
        "image", "rollout", "gradient-weighted", "layer 3, head 1", "layer 3, head 2"
    ]  # fmt: skip
    flow = patch_maps(gradient_weighted_rollout(attention, gradients), (2, 3))
    for b, box in enumerate([(1, 0, 4, 2), (2, 1, 4, 3)]):
        np.testing.assert_allclose(shown_in(axes[b, 2])[0], flow[b], atol=1e-7)
        for axis in axes[b]:
            assert box_in(axis) == [box]
            assert list(shown_in(axis)[1]) == [0, 6, 4, 0]  # every panel in pixels of the image


def test_without_boxes_there_is_no_outline(figure):
    plot_attention(*images_and_attention(), (2, 3), "unused")
    assert not any(box_in(axis) for axis in figure[0].axes)


@pytest.mark.parametrize(("layer", "number"), [(0, 1), (-1, 3)])
def test_attention_stands_above_its_gradients(figure, layer, number):
    images, attention = images_and_attention()
    gradients = np.random.default_rng(2).normal(size=attention.shape)
    gradients[:, 1, 1] = 0  # a head without any
    titles = ["a seven", "a one"]
    plot_gradients(images, attention, gradients, (2, 3), "unused", titles, layer, BOXES)
    axes = np.reshape(figure[0].axes, (4, 3))
    names = ["image", f"layer {number}, head 1", f"layer {number}, head 2"]
    assert [axis.get_title() for axis in axes[0]] == names
    assert [axes[row, 0].get_ylabel() for row in (0, 2)] == titles
    assert [axes[row, 1].get_ylabel() for row in range(4)] == ["A", "dA", "A", "dA"]
    for b, h in itertools.product(range(2), range(2)):
        upper, lower = axes[2 * b, h + 1], axes[2 * b + 1, h + 1]
        np.testing.assert_allclose(shown_in(upper)[0], patch_maps(attention[layer, b, h], (2, 3)))
        dA = patch_maps(gradients[layer, b, h], (2, 3))
        np.testing.assert_allclose(shown_in(lower)[0], dA)
        low, high = lower.get_images()[0].get_clim()
        assert (low, high) == (-high, pytest.approx(abs(dA).max() or 1))
        assert len(box_in(upper)) == len(box_in(lower)) == 1


def test_an_overlay_is_grey_where_nobody_looks_and_glows_where_many_do():
    picture = np.zeros((20, 30, 3), np.float32) + np.array([0.5, -0.5, 0.1], np.float32)
    one = np.zeros((2, 3), np.float32)
    one[0, 0] = 0.4
    shown = overlay(picture, one)
    assert shown.shape == (20, 30, 3)
    grey = 0.299 * 0.5 - 0.587 * 0.5 + 0.114 * 0.1
    black, bright = (2 * np.array(plt.get_cmap("inferno")(x)[:3]) - 1 for x in (0.0, 1.0))
    np.testing.assert_allclose(shown[15:, 20:], 0.7 * grey + 0.3 * black * np.ones((5, 10, 1)))
    np.testing.assert_allclose(shown[:5, :5], 0.2 * grey + 0.8 * bright * np.ones((5, 5, 1)))
    between = shown[2, 4:16, 0]  # from the first centre to the next
    assert len(set(between.round(4))) > 8  # no steps


def test_a_glow_goes_from_the_lowest_entry_to_what_few_exceed():
    rising = np.arange(101.0).reshape(1, 101) + 7
    glow = overlays.brightness(rising)
    np.testing.assert_allclose(glow[0, :98], np.arange(98) / 97, atol=1e-12)
    assert (glow[0, 97:] == 1).all()
    assert (overlays.brightness(np.full((3, 4), 0.2, np.float32)) == 0).all()
    single = np.zeros((10, 10))
    single[4, 5] = 0.3  # what 3% exceed is zero
    assert np.array_equal(overlays.brightness(single), single / 0.3)


@pytest.mark.parametrize(
    ("heads", "with_gradients", "rows", "columns"),
    [(3, True, 1, 6), (4, True, 1, 7), (4, False, 1, 6), (12, True, 3, 5), (16, True, 4, 5)],
)
def test_overlays_stand_in_a_block_for_each_photograph(
    figure, heads, with_gradients, rows, columns
):
    images = np.random.default_rng(1).uniform(-1, 1, (2, 4, 6, 3)).astype("float32")
    A = random_attention(3, 2, heads, 7, 7, dtype="float32")
    dA = np.random.default_rng(2).normal(size=A.shape).astype("float32")
    titles = ["a_$cat$.png\ncat (50%)", "dog.png"]
    plot_overlays(images, A, (2, 3), "unused", titles, 1, dA if with_gradients else None)
    axes = np.reshape(figure[0].axes, (2, rows * columns))
    maps = {"rollout": attention_rollout(A)}
    if with_gradients:
        maps["gradient-weighted"] = gradient_weighted_rollout(A, dA)
    maps |= {f"layer 2, head {h + 1}": A[1, :, h] for h in range(heads)}
    for b in range(2):
        names = [axis.get_title() for axis in axes[b]]
        assert names[: len(maps) + 1] == [titles[b], *maps]
        assert names[len(maps) + 1 :] == [""] * (rows * columns - len(maps) - 1)
        np.testing.assert_allclose(shown_in(axes[b, 0])[0], (images[b] + 1) / 2, atol=1e-6)
        for axis, one in zip(axes[b, 1:], maps.values(), strict=False):
            shown, extent = shown_in(axis)
            laid = overlay(images[b], patch_maps(one[b], (2, 3)))
            np.testing.assert_allclose(shown, (laid + 1) / 2, atol=1e-6)
            assert list(extent) == [0, 6, 4, 0]
    assert figure[0]._supxlabel.get_text() == overlays.CAPTION


def test_a_long_name_is_written_in_several_lines(figure):
    images, A = images_and_attention(channels=3)
    plot_overlays(images, A, (2, 3), "unused", ["x" * 60, "two words\nand a second line"])
    titles = [axis.get_title() for axis in figure[0].axes if "x" in axis.get_title()]
    assert titles == ["\n".join(["x" * 28, "x" * 28, "xxxx"])]
    assert figure[0].axes[4].get_title() == "two words\nand a second line"


LONG = "a_long_file_name_of_a_photograph.jpeg\n" + "a dog with quite a long name " * 4
SIZES = [(16, 16), (16, 32), (32, 16), (16, 96)]


@pytest.mark.parametrize("titles", [(), ["a"], ["a", "b\nc"], [LONG, LONG]])
@pytest.mark.parametrize("size", SIZES)
def test_no_name_above_a_panel_is_cut_and_the_caption_stands_close(figure, size, titles):
    images = np.zeros((2, *size, 3), np.float32)
    for heads in (2, 9):  # one row, three rows
        plot_overlays(images, random_attention(1, 2, heads, 5, 5), (2, 2), "unused", titles)
        drawn = figure[-1]
        drawn.canvas.draw()
        panels = [axis for axis in drawn.axes if axis.get_images()]
        names = [axis.title.get_window_extent() for axis in panels]
        pictures = [axis.get_window_extent() for axis in panels]
        inch, caption = drawn.dpi, drawn._supxlabel.get_window_extent()
        assert max(name.y1 for name in names) < drawn.bbox.y1
        assert 0 < min(one.y0 for one in pictures) - caption.y1 < 0.15 * inch
        assert 0 < caption.y0 < 0.2 * inch
        for one, other in itertools.product(names, pictures):
            assert not one.overlaps(other)
        for one in pictures:
            assert one.height / one.width == pytest.approx(size[0] / size[1])
            above = [other.y0 for other in pictures if other.y0 > one.y1]
            lines = [name.y1 for name in names if one.y1 < name.y0 < min(above, default=math.inf)]
            below = min(above, default=drawn.bbox.y1)
            assert 0 < below - max(lines) < 0.3 * inch  # no wide gap above the names


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_gradients", [True, False])
def test_rows_are_as_high_as_the_images_or_as_a_name(figure, size, with_gradients):
    images, A = np.zeros((2, *size, 1)), random_attention(1, 2, 6, 5, 5)
    titles = ["picture.png\na dog (97.3%)"] * 2
    if with_gradients:
        plot_gradients(images, A, A, (2, 2), "unused", titles)
    else:
        plot_attention(images, A, (2, 2), "unused", titles)
    drawn = figure[0]
    drawn.canvas.draw()
    shown = [axis.get_window_extent() for axis in drawn.axes if axis.get_images()]
    middles = sorted({round((one.y0 + one.y1) / 20) * 10 for one in shown})
    assert len(middles) == (4 if with_gradients else 2)
    gap = np.diff(middles).max() - shown[0].height
    least = (0.4 if with_gradients else 0.8) * drawn.dpi  # of a row beside a name
    least = max(0, least - shown[0].height)
    assert -10 < gap < least + 0.4 * drawn.dpi
    assert sum(one.width for one in shown) > 0.85 * len(middles) * 6 / 7 * drawn.bbox.width
    for axis in drawn.axes:
        name = axis.yaxis.label.get_window_extent()
        assert drawn.bbox.y0 <= name.y0 <= name.y1 <= drawn.bbox.y1


def test_a_long_name_beside_a_row_is_written_in_several_lines(figure):
    images, A = np.zeros((2, 16, 32, 1)), random_attention(1, 2, 2, 5, 5)
    plot_attention(images, A, (2, 2), "unused", ["golden retriever (97.3%)", "dog"])
    plot_gradients(images, A, A, (2, 2), "unused", ["golden retriever (97.3%)", "dog"])
    names = [
        [axis.get_ylabel() for axis in one.axes if len(axis.get_ylabel()) > 2] for one in figure
    ]
    assert names[0] == ["golden\nretriever\n(97.3%)", "dog"]
    assert names[1] == ["golden retriever\n(97.3%)", "dog"]  # beside two rows


@pytest.mark.parametrize("depth", [1, 2, 3, 12, 24])
def test_layers_are_counted_in_whole_numbers(figure, depth):
    plot_distances(np.ones((depth, 2)), 2.0, "unused")
    assert_whole(figure[0].axes[0], 1, depth)


def assert_whole(axis, first, last):
    """The ticks that an axis shows along x are whole numbers, all of them if there are few."""
    low, high = axis.get_xlim()
    ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
    assert ticks == [round(tick) for tick in ticks]
    if last < 6:
        assert ticks == list(range(first, last + 1))
    assert 1 <= len(ticks) <= 13


def test_distances_are_a_dot_for_each_head_above_its_layer(figure):
    distances = np.array([[10.0, 20, 30], [40, 130, 60]])
    plot_distances(distances, 116.5, "unused")
    (axis,) = figure[0].axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("layer", "mean attention distance (pixels)")
    uniform, *heads = axis.get_lines()
    assert list(uniform.get_ydata()) == [116.5, 116.5]
    assert [list(head.get_xdata()) for head in heads] == [[1, 2]] * 3
    assert [list(head.get_ydata()) for head in heads] == [[10, 40], [20, 130], [30, 60]]
    assert axis.get_ylim()[0] == 0
    assert axis.get_ylim()[1] > 130
    words = [text.get_text() for text in axis.get_legend().get_texts()]
    assert words == ["uniform attention", "one of 3 heads"]


def test_the_grid_of_grids_has_each_place_where_it_is(figure):
    similarity = np.random.default_rng(0).uniform(-1, 1, (2, 3, 2, 3))
    plot_similarity(similarity, "unused")
    axis, bar = figure[0].axes
    mosaic = shown_in(axis)[0]
    assert mosaic.shape == (2 * 2 + 1, 3 * 3 + 2)
    assert np.array_equal(mosaic[3:, 4:7], similarity[1, 1])
    assert np.array_equal(mosaic[:2, 8:], similarity[0, 2])
    masked = np.ma.getmaskarray(axis.get_images()[0].get_array())
    gaps = np.isnan(mosaic) | masked
    assert gaps[2].all()
    assert gaps[:, [3, 7]].all()
    assert gaps.sum() == mosaic.size - similarity.size
    assert axis.get_images()[0].get_clim() == (-1, 1)
    assert bar.get_ylabel() == "cosine similarity"
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "2", "3"]
    assert list(axis.get_xticks()) == [1, 5, 9]


GRIDS = [(24, 24), (14, 14), (16, 16), (32, 32), (7, 7), (10, 20), (20, 10), (2, 16), (1, 1)]


@pytest.mark.parametrize("grid", GRIDS)
def test_each_entry_of_the_grid_of_grids_is_as_many_pixels(tmp_path, grid):
    gh, _ = grid
    plot_similarity(np.full((*grid, *grid), -1.0), tmp_path / "figure.png")
    lines = [pixels_of_mosaic(tmp_path / "figure.png", axis) for axis in (0, 1)]
    side = len(lines[0]) // (gh * (gh + 1) - 1)
    for line, g in zip(lines, grid, strict=True):
        expected = np.full((g, g + 1, side), True)
        expected[:, g] = False
        assert line.tolist() == expected.ravel()[:-side].tolist()


def pixels_of_mosaic(path, axis):
    """From the first to the last purple pixel along an axis: is it one? The colour bar is cut."""
    pixels = plt.imread(path)[:, :-140, :3]
    purple = (abs(pixels - plt.get_cmap("viridis")(0.0)[:3]) < 0.01).all(-1).any(1 - axis)
    first, *_, last = np.flatnonzero(purple)
    return purple[first : last + 1]


@pytest.mark.parametrize("grid", GRIDS)
def test_the_numbers_of_the_grid_of_grids_do_not_touch(figure, grid):
    plot_similarity(np.zeros((*grid, *grid)), "unused")
    drawn, (axis, bar) = figure[0], figure[0].axes
    drawn.set_dpi(plots.DPI)
    drawn.canvas.draw()
    for one, g in ((axis.xaxis, grid[1]), (axis.yaxis, grid[0])):
        numbers = [int(text.get_text()) for text in one.get_ticklabels()]
        assert numbers == list(range(1, g + 1, -(-g // len(numbers))))
        assert len(numbers) <= 16
        assert list(one.get_majorticklocs()) == [
            (number - 1) * (g + 1) + (g - 1) / 2 for number in numbers
        ]
        boxes_ = [text.get_window_extent() for text in one.get_ticklabels()]
        for left, right in itertools.pairwise(boxes_):
            assert max(right.x0 - left.x1, left.y0 - right.y1) > 5
    for text in (axis.xaxis.label, axis.yaxis.label, bar.yaxis.label):
        inside = text.get_window_extent()
        assert (inside.min > 0).all()
        assert (inside.max < drawn.bbox.max).all()
    mosaic = axis.get_window_extent()
    shape = [g * (g + 1) - 1 for g in grid]
    assert mosaic.height / mosaic.width == pytest.approx(shape[0] / shape[1])
    assert drawn.bbox.height < max(mosaic.height, 160) + 100  # no wide gap


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_stand_in_rows_of_seven(figure, channels):
    filters = np.random.default_rng(0).uniform(0, 1, (9, 4, 4, channels))
    plot_filters(filters, np.full(9, 0.1), "unused")
    axes = figure[0].axes
    assert len(axes) == 14
    assert [bool(axis.get_images()) for axis in axes] == [True] * 9 + [False] * 5
    expected = filters[8] if channels == 3 else filters[8, ..., 0]
    np.testing.assert_allclose(shown_in(axes[8])[0], expected, atol=1e-12)
    assert "9 principal components" in figure[0].get_suptitle()
    assert "90% of the variance" in figure[0].get_suptitle()


# --- from a model to a figure ----------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """What the next figures would be drawn from: a list of (name of the plot, its arguments)."""
    calls = []
    for name in ("attention", "overlays", "gradients", "distances", "similarity", "filters"):
        note = lambda *args, name=name: calls.append((name, args))  # noqa: E731
        monkeypatch.setattr(drawing, f"plot_{name}", note)
    return calls


def some_dataset(with_boxes):
    """Twenty held-out images whose labels count 9, 8, ..., 0, 9, ..."""
    labels = np.arange(20)[::-1] % 10
    where = np.array([[b % 3, b % 5, 4, 6] for b in range(20)]) if with_boxes else None
    images, names = pictures(20), tuple("0123456789")
    return data.Dataset("some", images, labels, images, labels, names, where, where)


@pytest.mark.parametrize("with_boxes", [True, False])
@pytest.mark.parametrize(("kind", "labels"), [("maps", [0, 2, 3, 4, 8]), ("gradients", [2, 3, 8])])
def test_maps_are_of_the_first_held_out_images_of_some_classes(drawn, kind, labels, with_boxes):
    model, dataset = moved(classes=10), some_dataset(with_boxes)
    drawing.draw_held_out(model, dataset, "out.png", kind, 1)
    ((plotted, arguments),) = drawn
    names = {
        "attention": "images A grid path titles layer dA boxes",
        "gradients": "images A dA grid path titles layer boxes",
    }
    found = dict(zip(names[plotted].split(), arguments, strict=True))
    assert plotted == {"maps": "attention", "gradients": "gradients"}[kind]
    places = [9 - label for label in labels]
    images = dataset.held_out_images[places]
    answers = model(images).argmax(-1)
    A, dA = attention_gradients(model, images, answers)
    np.testing.assert_equal(found, {
        "images": images, "A": A, "dA": dA, "grid": (2, 3), "path": "out.png", "layer": 1,
        "titles": [f"{label}, read as {c}" for label, c in zip(labels, answers, strict=True)],
        "boxes": dataset.held_out_boxes[places] if with_boxes else None,
    })  # fmt: skip


def test_distances_are_of_128_images_and_beside_uniform_attention(drawn, monkeypatch):
    model, dataset = moved(classes=10), some_dataset(False)
    monkeypatch.setattr(drawing, "EXAMPLES", 7)
    drawing.draw_held_out(model, dataset, "out.png", "distance")
    ((name, (distances, uniform, path)),) = drawn
    assert (name, path) == ("distances", "out.png")
    A = model.attention(dataset.held_out_images[:14:2])  # twenty, every second
    np.testing.assert_allclose(distances, mean_attention_distance(A, (2, 3), 2), rtol=1e-12)
    between = [math.hypot(i // 3 - j // 3, i % 3 - j % 3) for i in range(6) for j in range(6)]
    assert uniform == pytest.approx(2 * sum(between) / 6 / 7)


def test_without_the_usual_classes_others_are_shown():
    labels = np.array([7, 1, 1, 9, 3, 7, 0])
    assert drawing.firsts(labels, (0, 2, 3, 4, 8)).tolist() == [6, 1, 4, 0, 3]
    assert drawing.firsts(labels, (2, 3, 8)).tolist() == [6, 1, 4]
    assert drawing.firsts(np.array([5, 5]), (2, 3, 8)).tolist() == [0]


def test_images_shown_are_called_by_the_names_of_their_classes(drawn):
    dataset = some_dataset(False)._replace(classes=tuple("abcdefghij"))
    model = moved(classes=10)
    drawing.draw_held_out(model, dataset, "out.png")
    ((_, (images, _, _, _, titles, *_)),) = drawn
    answers = model(images).argmax(-1)
    assert titles == [f"{one}, read as {'abcdefghij'[c]}"
                      for one, c in zip("acdei", answers, strict=True)]  # fmt: skip


def test_positions_and_filters_need_no_images(drawn):
    model = moved()
    drawing.draw(model, "positions", "out.png")
    drawing.draw(model, "filters", "out.png")
    (first, (similarity, *_)), (second, (filters, shares, path)) = drawn
    assert (first, second, path) == ("similarity", "filters", "out.png")
    table = model.params["positions"]["table"][1:]
    cosine = table[0] @ table[5] / math.sqrt(table[0] @ table[0] * (table[5] @ table[5]))
    assert similarity[0, 0, 1, 2] == pytest.approx(cosine)
    assert filters.shape == (4, 2, 2, 1)  # all that patches of four pixels have
    assert shares.sum() == pytest.approx(1)


def test_of_many_filters_the_first_28_components_are_drawn_and_of_few_all(drawn):
    drawing.draw(moved(channels=8, width=40), "filters", "out.png")
    drawing.draw(moved(channels=8, width=4), "filters", "out.png")
    assert [filters.shape for _, (filters, *_) in drawn] == [(28, 2, 2, 8), (3, 2, 2, 8)]


@pytest.mark.parametrize("kind", ["maps", "gradients"])
@pytest.mark.parametrize("family", ["minivit", "dino"])
def test_colours_are_shown_rightly_whatever_the_model_was_trained_on(drawn, family, kind):
    model = moved(channels=3, preprocessing=family, classes=10)
    images = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype("float32")
    drawing.draw(model, kind, "out.png", images, ["one", "two"])
    ((name, (shown, *arguments)),) = drawn
    assert name == {"maps": "overlays", "gradients": "gradients"}[kind]
    mean, deviation = (0.5, 0.5)
    if family == "dino":
        mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    np.testing.assert_allclose((shown + 1) / 2, images * deviation + mean, atol=1e-6)
    A, dA = attention_gradients(model, images)
    expected = [A, (2, 3), "out.png", ["one", "two"], -1, dA]
    if kind == "gradients":
        expected = [A, dA, (2, 3), "out.png", ["one", "two"], -1, None]
    np.testing.assert_equal(arguments, expected)


def test_boxes_are_outlined_on_coloured_images_too(drawn):
    drawing.draw(moved(channels=3, classes=10), "maps", "o", np.zeros((2, 4, 6, 3)), boxes=BOXES)
    ((name, arguments),) = drawn
    assert name == "attention"
    assert arguments[-1] is BOXES


def test_a_model_without_a_classifier_has_maps_and_no_gradients(drawn):
    model = moved(classes=None)
    drawing.draw(model, "maps", "out.png", pictures())
    ((name, (_, A, *_, dA, _)),) = drawn
    assert (name, dA) == ("attention", None)
    np.testing.assert_array_equal(A, model.attention(pictures()))
    with pytest.raises(ValueError, match="no classifier: no look speaks for any class"):
        drawing.draw(model, "gradients", "out.png", pictures())
    assert len(drawn) == 1


def hybrid(**fields):
    """A stem of two stages, each of one unit: a token every 8 pixels, of patches of one place."""
    shape = {"image_size": (16, 24), "channels": 3, "classes": 4, "patch_size": 1}
    shape |= {"width": 8, "depth": 1, "heads": 2, "mlp_width": 8}
    return ViT.create(ViTConfig(**shape, stem=(1, 1), stem_width=32, **fields))


def test_a_hybrid_counts_pixels_from_token_to_token_and_has_no_filters(drawn):
    model = hybrid()
    assert model.config.grid == (2, 3)
    images = np.zeros((2, 16, 24, 3), np.float32)
    drawing.draw(model, "distance", "out.png", images)
    ((_, (_, uniform, _)),) = drawn
    between = [math.hypot(i // 3 - j // 3, i % 3 - j % 3) for i in range(6) for j in range(6)]
    assert uniform == pytest.approx(8 * sum(between) / 6 / 7)
    with pytest.raises(ValueError, match="a hybrid reads no pixels: nothing to show"):
        drawing.draw(model, "filters", "out.png")
    boxes_ = np.array([[0, 0, 16, 12], [8, 8, 16, 24]])  # the left half, a third
    flow = patch_maps(attention_rollout(model.attention(images)), (2, 3))
    expected = fraction_in_box(flow, boxes_, 8).mean()
    assert localisation_scores(model, images, boxes_)["rollout"] == pytest.approx(expected)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="unknown kind 'map': choose maps, distance, positions"):
        drawing.draw(moved(), "map", "out.png", pictures())


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("kind", drawing.KINDS)
def test_every_kind_is_drawn(tmp_path, kind, pooling):
    model = moved(pooling=pooling, classes=10)
    if kind in drawing.OF_IMAGES:
        drawing.draw_held_out(model, some_dataset(True), tmp_path / "out.png", kind)
    else:
        drawing.draw(model, kind, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 5000


# --- figures as files ------------------------------------------------------------------------


def test_a_grid_that_does_not_fit_is_refused_before_anything_is_drawn(tmp_path):
    images, attention = images_and_attention()
    with pytest.raises(ValueError, match="7 tokens do not fit a grid of 3 x 3"):
        plot_attention(images, attention, (3, 3), tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_curves_are_of_losses_and_errors(figure):
    plot_curves(LOG, "unused", baseline=0.96)
    left, right = figure[0].axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("epoch", "epoch")
    assert left.get_ylabel() == "cross-entropy (nats)"
    assert right.get_ylabel() == "errors (%)"
    training, held_out = left.get_lines()
    assert training.get_xdata() == pytest.approx([1, 2, 3])
    assert training.get_ydata() == pytest.approx([2.0, 1.0, 0.5])
    assert held_out.get_ydata() == pytest.approx([1.5, 0.8, 0.6])
    errors, baseline = right.get_lines()
    assert errors.get_ydata() == pytest.approx([50, 25, 2])
    assert baseline.get_ydata() == pytest.approx([4, 4])
    for axis in (left, right):
        labels = [line.get_label() for line in axis.get_lines()]
        assert [text.get_text() for text in axis.get_legend().get_texts()] == labels


def test_curves_without_a_linear_model_have_no_line_for_it(figure):
    plot_curves(LOG, "unused")
    (errors,) = figure[0].axes[1].get_lines()
    assert errors.get_label() == "ViT, held out"


@pytest.mark.parametrize("worst", [0.85, 0.1])
def test_errors_are_counted_in_plain_numbers_however_near_they_lie(figure, worst):
    for share in (0.98, 0.02):
        log = [LOG[0] | {"epoch": e + 1, "held_out_accuracy": 1 - worst * share**e} for e in (0, 1)]
        plot_curves(log, "unused")
        axis = figure[-1].axes[1].yaxis
        figure[-1].canvas.draw()
        low, high = axis.get_view_interval()
        shown = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
        assert len(shown) > 1
        for tick in shown:
            assert float(tick.label1.get_text()) == pytest.approx(tick.get_loc())
        assert not any(tick.label1.get_text() for tick in axis.get_minor_ticks())


@pytest.mark.parametrize("epochs", [1, 2, 3, 10, 11, 40])
def test_few_epochs_are_dots_and_all_are_counted_in_whole_numbers(figure, epochs):
    plot_curves([LOG[0] | {"epoch": 1 + e, "loss": 2.0 - e / 40} for e in range(epochs)], "", 0.96)
    left, right = figure[0].axes
    for line in (*left.get_lines(), right.get_lines()[0]):
        assert line.get_marker() == ("o" if epochs <= 10 else "None")
    for axis in (left, right):
        assert_whole(axis, 1, epochs)
    assert left.get_ylim()[0] == 0
    assert left.get_ylim()[1] > 1.02 * 2.0  # the highest dot is whole


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_curves_of_one_epoch_can_be_drawn_however_good_it_was(tmp_path, accuracy):
    plot_curves([LOG[0] | {"held_out_accuracy": accuracy}], tmp_path / "curves.png", 0.96)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def written(path, text):
    """The pixels of a figure with this text, written without a warning; and the text's fonts."""
    figure = plt.figure(figsize=(2, 1))
    text = figure.text(0.1, 0.4, text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save_figure(figure, path)
    return plt.imread(path), text.get_fontfamily()


@pytest.fixture
def only_the_usual_fonts(monkeypatch):
    """As on a machine that has no fonts but those of Matplotlib."""
    manager = plots.font_manager.fontManager
    usual = [font for font in manager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(manager, "ttflist", usual)


@pytest.mark.parametrize("text", ["\uace0\uc591\uc774", "\u05d7\u05ea\u05d5\u05dc\uace0", "\u0f40"])
def test_letters_that_no_font_has_are_no_warning(tmp_path, caplog, only_the_usual_fonts, text):
    pixels, _ = written(tmp_path / "figure.png", text)
    assert caplog.messages == []
    assert (pixels < 0.5).any()  # boxes


def test_letters_that_the_font_lacks_come_from_one_that_has_them(
    tmp_path, monkeypatch, only_the_usual_fonts
):
    boxed, families = written(tmp_path / "figure.png", "a\uace0")
    assert families == ["sans-serif"]
    manager = plots.font_manager.fontManager
    make_font(tmp_path / "squares.ttf", "Squares", "\uace0")
    make_font(tmp_path / "resort.ttf", ".LastResort", "\uace0\uc591")
    for name in ("squares", "resort"):
        manager.addfont(tmp_path / f"{name}.ttf")
    pixels, families = written(tmp_path / "figure.png", "a\uace0\uc591")
    assert families == ["sans-serif", "Squares"]
    assert (pixels[..., 0] < 0.5).sum() > 1.5 * (boxed[..., 0] < 0.5).sum()  # a full square
    assert written(tmp_path / "figure.png", "a")[1] == ["sans-serif"]


def make_font(path, name, letters):
    """A font whose every letter is a full square."""
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(letter): "square" for letter in letters})
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    builder.setupGlyf({".notdef": square, "square": square})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


NO_FORMULA = r"a $\nothing$ name"  # which cannot be set as one


def attention_figure(path):
    plot_attention(*images_and_attention(), (2, 3), path, ["a seven", NO_FORMULA])


def overlays_figure(path):
    plot_overlays(*images_and_attention(channels=3), (2, 3), path, [NO_FORMULA, "a dog"])


def curves_figure(path):
    plot_curves(LOG, path, 0.96)


def gradients_figure(path):
    images, attention = images_and_attention()
    titles = ["a seven", NO_FORMULA]
    plot_gradients(images, attention, attention - 0.1, (2, 3), path, titles, boxes=BOXES)


def distances_figure(path):
    plot_distances(np.array([[1.0, 2], [3, 4]]), 3.5, path)


def similarity_figure(path):
    plot_similarity(np.linspace(-1, 1, 36).reshape(2, 3, 2, 3), path)


def filters_figure(path):
    plot_filters(np.linspace(0, 1, 36).reshape(3, 2, 2, 3), np.array([0.5, 0.2, 0.1]), path)


FIGURES = [
    attention_figure, curves_figure, gradients_figure, distances_figure, similarity_figure,
    filters_figure, overlays_figure,
]  # fmt: skip


@pytest.mark.parametrize("draw", FIGURES)
def test_the_same_figure_is_the_same_bytes(draw, tmp_path):
    for name in ("first.png", "second.png"):
        draw(tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("first.png", "second.png"))
    assert first == second
    assert first.startswith(b"\x89PNG\r\n")
    assert b"matplotlib" not in first.lower()  # a version would be another byte next year


@pytest.mark.parametrize("draw", FIGURES)
def test_a_figure_that_cannot_be_written_names_its_place_and_is_closed(draw, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        draw(tmp_path / "nowhere" / "figure.png")
    assert error.value.filename == str(tmp_path / "nowhere" / "figure.png")
    assert error.value.strerror.startswith(f"there is no folder {tmp_path / 'nowhere'}")
    assert plt.get_fignums() == []
