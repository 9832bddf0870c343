"""Attention maps, relevance, attention distance, embeddings and localisation."""

import importlib
import itertools
import math
import re

import numpy as np
import pytest
from helpers.attention import make_images, make_model, random_attention
from helpers.on_device import xp

from minivit import ViT, flatten, unflatten
from minivit.analysis import (
    METHODS,
    attention_gradients,
    attention_maps,
    attention_rollout,
    attention_sinks,
    box_area_fraction,
    find_class,
    fraction_in_box,
    gradient_weighted_rollout,
    gradient_weighted_sum,
    localisation,
    localisation_scores,
    mean_attention_distance,
    name_class,
    patch_filters,
    patch_maps,
    position_similarity,
    position_table,
)
from minivit.layers import softmax
from minivit.models import infer

# --- attention maps and rollout ---------------------------------------------------------------


def test_a_map_is_the_row_of_the_class_token_or_the_mean_of_all_rows():
    A = np.stack([np.arange(49.0).reshape(7, 7), np.eye(7)])  # two layers
    assert patch_maps(A, (2, 3)).tolist() == [[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [0, 0, 0]]]
    A = np.arange(36.0).reshape(6, 6)  # without a class token
    assert patch_maps(A, (3, 2)).tolist() == [[15, 16], [17, 18], [19, 20]]


def test_a_map_of_a_query_is_the_row_of_its_patch():
    A = np.arange(49.0).reshape(7, 7)  # the class token and 2 x 3 patches
    assert patch_maps(A, (2, 3), (0, 0)).tolist() == [[8, 9, 10], [11, 12, 13]]
    assert patch_maps(A, (2, 3), (1, 2)).tolist() == [[43, 44, 45], [46, 47, 48]]
    A = np.arange(36.0).reshape(6, 6)  # without a class token
    assert patch_maps(A, (2, 3), (1, 0)).tolist() == [[18, 19, 20], [21, 22, 23]]
    for query in ((2, 0), (0, 3), (-1, 0)):
        with pytest.raises(ValueError, match=f"no patch in row {query[0]}, column {query[1]}: "):
            patch_maps(A, (2, 3), query)


@pytest.mark.parametrize(
    "function",
    [
        patch_maps,
        lambda A, grid: mean_attention_distance(A, grid, 4),
        lambda A, grid: position_similarity(A[0, 0, 0], grid),
        attention_sinks,
    ],
)
@pytest.mark.parametrize("T", [1, 5, 8, 12])
def test_tokens_must_fit_the_grid(function, T):
    with pytest.raises(ValueError, match=f"{T} tokens do not fit a grid of 2 x 3 patches"):
        function(random_attention(1, 1, 1, T, T), (2, 3))


def test_rollout_matches_loops():
    attention = random_attention(2, 1, 2, 3, 3)  # two layers, two heads, three tokens
    mixed = [[[0.0] * 3 for _ in range(3)] for _ in range(2)]
    for layer, i, j in np.ndindex(2, 3, 3):
        heads = attention[layer, 0, 0, i, j] + attention[layer, 0, 1, i, j]
        mixed[layer][i][j] = (heads / 2 + (i == j)) / 2
    first, second = mixed
    expected = [
        [sum(second[i][t] * first[t][j] for t in range(3)) for j in range(3)] for i in range(3)
    ]
    np.testing.assert_allclose(attention_rollout(attention)[0], expected, rtol=1e-13)
    assert abs(attention_rollout(attention[::-1])[0] - expected).max() > 1e-3


@pytest.mark.parametrize("discard", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_fusion_and_discard_match_loops(fusion, discard):
    attention = random_attention(3, 2, 4, 5, 5)
    combine = {"mean": lambda values: sum(values) / len(values), "max": max, "min": min}[fusion]
    for b in range(2):
        expected = np.eye(5)
        for A in attention[:, b]:  # (h, T, T)
            fused = [combine([A[h, i, j] for h in range(4)]) for i, j in np.ndindex(5, 5)]
            smallest = sorted(range(25), key=fused.__getitem__)[: int(25 * discard)]
            kept = [0.0 if n in smallest and n != 0 else x for n, x in enumerate(fused)]
            mixed = np.array(kept).reshape(5, 5) + np.eye(5)
            expected = np.array([row / sum(row) for row in mixed]) @ expected
        actual = attention_rollout(attention, fusion, discard)
        np.testing.assert_allclose(actual[b], expected, rtol=1e-12)
        np.testing.assert_allclose(actual.sum(-1), 1)


def test_the_attention_of_the_class_token_to_itself_is_not_discarded():
    A = np.full((1, 1, 1, 3, 3), 0.4)
    A[..., 0, 0] = 0.2  # the smallest entry
    first = attention_rollout(A, discard=0.5)[0, 0]
    assert first[0] == pytest.approx(1.2 / (1.2 + first[1:].sum() * (1.2 / first[0])))
    assert attention_rollout(A, discard=0.12)[0, 0, 0] == pytest.approx(1.2 / 2.0)


@pytest.mark.parametrize("discard", [-0.1, 1.0, math.nan])
def test_invalid_options_of_the_rollout_are_rejected(discard):
    with pytest.raises(ValueError, match="discard must be at least 0 and below 1"):
        attention_rollout(random_attention(1, 1, 1, 3, 3), discard=discard)
    with pytest.raises(ValueError, match="unknown fusion 'sum': choose mean, max, min"):
        attention_rollout(random_attention(1, 1, 1, 3, 3), "sum")


@pytest.mark.parametrize("extra", [0, 1])
def test_a_sink_receives_ten_times_the_uniform_weight_from_all_queries(extra):
    T = 48 + extra  # 6 x 8 patches, and perhaps a class token
    A = np.full((3, 2, 4, T, T), 1 / T)
    A[1, 0, :, :, extra + 5] = 10.1 / T  # every query of every head
    A[0, 0, :, :, extra + 6] = 9.9 / T
    A[2, 1, 0, :, extra + 7] = 30 / T  # one head of four
    A[2, 1, :, 3, extra + 8] = 40 / T  # one query
    sinks = attention_sinks(A, (6, 8))
    assert np.argwhere(sinks).tolist() == [[0, 0, 5]]


# --- attention maps of a model ----------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, -1, -2])
@pytest.mark.parametrize("head", [None, 0, -1])
@pytest.mark.parametrize("query", [None, (1, 2)])
def test_maps_are_combined_from_the_chosen_layers_and_heads(layer, head, query):
    model, images = make_model(heads=4, depth=2), make_images()
    A, dA = attention_gradients(model, images)
    heads = list(range(4)) if head is None else [head % 4]
    upto, n = range(2)[layer] + 1, range(2)[layer]
    A, dA = A[:, :, heads], dA[:, :, heads]
    part, only = ", layer 1" if n == 0 else "", f", head {heads[0] + 1}" if len(heads) == 1 else ""
    expected = {f"layer {n + 1}, head {h + 1}": A[n][:, i] for i, h in enumerate(heads)}
    expected |= {
        f"layer {n + 1}, mean{only}": A[n].mean(1),
        f"layer {n + 1}, max{only}": A[n].max(1),
        f"rollout{part}{only}": attention_rollout(A[:upto], "min", 0.5),
        f"relevance, predicted{part}{only}": gradient_weighted_rollout(A[:upto], dA[:upto]),
    }
    options = {"query": query, "fusion": "min", "discard": 0.5}
    actual = attention_maps(model, images, list(METHODS), layer, head, **options)
    assert list(actual) == list(expected)
    for title, M in actual.items():
        np.testing.assert_allclose(M, patch_maps(expected[title], (2, 3), query), rtol=1e-9)


def test_relevance_has_a_map_for_each_target():
    model, images = make_model(), make_images()
    model.class_names = ["ant", "bee", "cat", "dog", "eel"]
    actual = attention_maps(model, images, ["relevance"], targets=[4, 1])
    assert list(actual) == ["relevance, eel", "relevance, bee"]
    for k, M in zip([4, 1], actual.values(), strict=True):
        R = gradient_weighted_rollout(*attention_gradients(model, images, [k] * 3))
        np.testing.assert_allclose(M, patch_maps(R, (2, 3)), rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["mean", "flow"]}, "unknown method 'flow': choose raw, mean, max, rollout, "),
        ({"layer": 2}, "layer must be -2 to 1, not 2"),
        ({"layer": -3}, "layer must be -2 to 1, not -3"),
        ({"head": 2}, "head must be -2 to 1, not 2"),
        ({"query": (2, 0)}, "there is no patch in row 2"),
        ({"methods": ["relevance"], "targets": [5]}, "classes must be 3 integers from 0 to 4"),
    ],
)
def test_invalid_options_of_maps_are_rejected(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        attention_maps(make_model(), make_images(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "all"}, "layer must be an integer, not 'all'"),
        ({"layer": 1.0}, "layer must be an integer, not 1.0"),
        ({"head": "1"}, "head must be an integer, not '1'"),
        ({"query": 3}, "a query must be two integers (row, column), not 3"),
        ({"query": (1, 2, 3)}, "a query must be two integers (row, column), not (1, 2, 3)"),
        ({"query": (1.5, 2)}, "a query must be two integers (row, column), not (1.5, 2)"),
    ],
)
def test_options_of_another_type_are_named(options, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        attention_maps(make_model(), make_images(), **options)


def test_a_class_is_found_by_its_name_or_its_index():
    model = make_model()
    assert [find_class(model, k) for k in (0, 4, "3")] == [0, 4, 3]
    for wrong in (5, -1, "cat", ""):
        with pytest.raises(ValueError, match=f"there is no class '{wrong}': choose 0 to 4"):
            find_class(model, wrong)
    assert name_class(model, 3) == "class 3"
    model.class_names = ["tabby", "Crane", "crane", "4", "grey fox"]
    assert [find_class(model, name) for name in ("TABBY ", "grey fox", 2, "4")] == [0, 4, 2, 3]
    assert name_class(model, 4) == "grey fox"
    with pytest.raises(ValueError, match="the classes 1 and 2 are both called 'crane': pass an in"):
        find_class(model, "crane")
    with pytest.raises(ValueError, match=r"there is no class 'taby'; did you mean 'tabby'\?"):
        find_class(model, "taby")
    with pytest.raises(ValueError, match="'zebra': choose a name or an index from 0 to 4"):
        find_class(model, "zebra")
    with pytest.raises(ValueError, match="the model has no classifier"):
        find_class(make_model(classes=None), 0)


# --- mean attention distance ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "patch_size", "expected"), [(14, 16, 116.492), (24, 16, 200.048), (8, 4, 16.546)]
)
def test_uniform_attention_has_the_published_distance(n, patch_size, expected):
    def distance(T, **options):
        A = np.full((1, 1, 1, T, T), 1 / T)
        return mean_attention_distance(A, (n, n), patch_size, **options)[0, 0]

    N = n * n
    assert distance(N) == pytest.approx(expected, abs=1e-3)
    assert distance(N + 1) == pytest.approx(expected * N / (N + 1), abs=1e-3)
    assert distance(N + 1, renormalise=True) == pytest.approx(expected, abs=1e-3)


def test_the_distance_matches_loops():
    attention = random_attention(2, 3, 4, 7, 7)
    expected = np.zeros((2, 4))
    for layer, image, head, i, j in np.ndindex(2, 3, 4, 6, 6):
        (r, c), (s, d) = divmod(i, 3), divmod(j, 3)  # a grid of two rows and three columns
        weight = attention[layer, image, head, 1 + i, 1 + j]
        expected[layer, head] += weight * 5 * math.hypot(r - s, c - d) / (3 * 6)
    distances = mean_attention_distance(attention, (2, 3), 5)
    np.testing.assert_allclose(distances, expected, rtol=1e-12)
    assert abs(mean_attention_distance(attention, (3, 2), 5) - expected).max() > 1e-3


@pytest.mark.parametrize("renormalise", [False, True])
def test_attention_to_itself_or_to_the_class_token_has_distance_zero(renormalise):
    A = np.zeros((1, 2, 1, 7, 7))
    A[:, 0] = np.eye(7)
    A[:, 1, ..., 0] = 1
    assert mean_attention_distance(A, (2, 3), 4, renormalise).tolist() == [[0]]


# --- gradients of the attention ---------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_gradient_matches_the_complex_step(monkeypatch, pooling, layer):
    model, images, classes = make_model(pooling=pooling), make_images(), [4, 0, 2]
    A, dA = attention_gradients(model, images, classes)
    T = model.config.tokens
    assert A.shape == dA.shape == (2, 3, 2, T, T)
    np.testing.assert_allclose(A, model.attention(images), rtol=1e-12)
    change = 1e-30j * np.random.default_rng(5).normal(size=A.shape[1:])
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


def test_the_default_class_is_the_predicted_one():
    model, images = make_model(), make_images(6)
    predicted = model(images).argmax(-1)
    assert len(set(predicted)) > 1
    _, dA = attention_gradients(model, images)
    assert np.array_equal(dA, attention_gradients(model, images, predicted)[1])
    assert not np.allclose(dA, attention_gradients(model, images, (predicted + 1) % 5)[1])


def test_shards_give_the_same_gradients(monkeypatch):
    model, images, classes = make_model(), make_images(5), np.array([4, 0, 2, 1, 1])
    alone = [attention_gradients(model, images[[b]], classes[[b]]) for b in range(5)]
    monkeypatch.setattr(ViT, "choose_shard_count", lambda *args: 3)
    actual = attention_gradients(model, images, classes)
    np.testing.assert_allclose(actual, np.concatenate(alone, axis=2), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("classes", [[0, 1], 2, [0.0, 1.0, 2.0], [0, 1, 5], [-1, 1, 2]])
def test_invalid_classes_are_rejected(classes):
    message = re.escape(f"classes must be 3 integers from 0 to 4, not {classes}")
    with pytest.raises(ValueError, match=message):
        attention_gradients(make_model(), make_images(), classes)


def test_gradients_require_a_classifier_and_finite_images():
    with pytest.raises(ValueError, match="no classifier, so there is no logit to differentiate"):
        attention_gradients(make_model(classes=None), make_images())
    images = np.concatenate([make_images(2), np.full((1, 4, 6, 1), np.nan)])
    with pytest.raises(ValueError, match="image 2 of the batch has pixels that are NaN"):
        attention_gradients(make_model(), images)


def test_relevance_matches_loops():
    attention = random_attention(3, 1, 2, 4, 4)
    gradients = np.random.default_rng(6).normal(size=attention.shape)
    R, total = np.eye(4), np.zeros((4, 4))
    for layer in range(3):
        A_bar = np.zeros((4, 4))
        for head, i, j in np.ndindex(2, 4, 4):
            index = layer, 0, head, i, j
            A_bar[i, j] += max(attention[index] * gradients[index], 0) / 2
        R = R + A_bar @ R
        total += A_bar
    rollout = gradient_weighted_rollout(attention, gradients)
    assert rollout.shape == (1, 4, 4)
    np.testing.assert_allclose(rollout[0], R - np.eye(4), rtol=1e-12)
    np.testing.assert_allclose(gradient_weighted_sum(attention, gradients)[0], total, rtol=1e-12)
    reverse = gradient_weighted_rollout(attention[::-1], gradients[::-1])
    assert abs(reverse - rollout).max() > 1e-3  # the order of the layers matters


# --- localisation -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 4, 4), 0.1),  # the first patch
        ((0, 2, 4, 6), 0.1 / 2 + 0.2 / 2),
        ((3, 11, 5, 12), 0.3 / 16 + 0.25 / 16),
        ((2, 2, 6, 6), (0.1 + 0.2 + 0.05 + 0.1) / 4),
        ((0, 0, 8, 12), 1),
        ((5, 5, 5, 9), 0),
    ],
)
def test_a_patch_counts_by_its_area_inside_the_box(box, expected):
    maps = 7 * np.array([[[0.1, 0.2, 0.3], [0.05, 0.1, 0.25]]])
    assert fraction_in_box(maps, np.array([box]), 4)[0] == pytest.approx(expected, rel=1e-12)


def test_a_uniform_map_scores_the_area_of_the_box_and_zeros_score_zero():
    box = np.array([[1, 2, 4, 4]])
    assert fraction_in_box(np.zeros((1, 2, 3)), box, 4).tolist() == [0]
    assert box_area_fraction(box, (10, 12)).tolist() == [6 / 120]
    assert box_area_fraction(xp.asarray(box), (10, 12)).get().tolist() == [6 / 120]
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.integers(0, [[21, 13]] * 2, size=(50, 2, 2)), axis=1).reshape(50, 4)
    areas = box_area_fraction(boxes, (20, 12))
    assert 0 <= areas.min() < 0.01 < 0.5 < areas.max() <= 1
    scores = fraction_in_box(np.full((50, 5, 3), 0.3), boxes, 4)
    np.testing.assert_allclose(scores, areas, atol=1e-12)


FIVE_BOXES = np.array([[0, 0, 2, 2], [1, 1, 3, 5], [2, 2, 4, 6], [0, 3, 4, 6], [1, 0, 2, 1]])


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_scores_are_means_over_all_images_for_any_batch_size(monkeypatch, batch_size):
    monkeypatch.setattr(localisation, "BATCH_SIZE", batch_size)
    model, images = make_model(), make_images(5)
    scores = localisation_scores(model, images, FIVE_BOXES)
    assert list(scores) == ["rollout", "gradient-weighted", "gradient sum", "chance"]
    A, dA = attention_gradients(model, images, model(images).argmax(-1))
    maps = {
        "rollout": attention_rollout(model.attention(images)),
        "gradient-weighted": gradient_weighted_rollout(A, dA),
        "gradient sum": gradient_weighted_sum(A, dA),
    }
    for name, R in maps.items():
        cells = R[:, 0, 1:].repeat(4, axis=1).reshape(5, 2, 3, 2, 2)
        pixels = cells.swapaxes(2, 3).reshape(5, 4, 6)  # the value of each patch on four pixels
        expected = [
            image[top:bottom, left:right].sum() / image.sum()
            for image, (top, left, bottom, right) in zip(pixels, FIVE_BOXES, strict=True)
        ]
        assert scores[name] == pytest.approx(np.mean(expected), rel=1e-9)
    assert scores["chance"] == pytest.approx((4 + 8 + 8 + 12 + 1) / 24 / 5, rel=1e-12)
    assert len({round(score, 6) for score in scores.values()}) == 4


# --- position embeddings and filters ----------------------------------------------------------


def test_similarity_is_the_cosine():
    class_token = [9.0, 9, 9]
    table = np.array(
        [class_token, [2, 0, 0], [0, 3, 0], [-5, 0, 0], [1, 1, 0], [0, 0, 0], [7, 0, 0]]
    )
    similarity = position_similarity(table, (2, 3))
    assert similarity.shape == (2, 3, 2, 3)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(similarity[0, 0], [[1, 0, -1], [half, 0, 1]], atol=1e-15)
    np.testing.assert_allclose(similarity[1, 0], [[half, half, -half], [1, 0, half]], atol=1e-15)
    assert not similarity[1, 1].any()  # a zero vector
    assert np.array_equal(position_similarity(table[1:], (2, 3)), similarity)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_position_table_returns_learned_and_fixed_embeddings(pooling):
    model = make_model(pooling=pooling)
    assert np.array_equal(position_table(model), model.params["positions"]["table"])
    model = make_model(pooling=pooling, positions="2d")
    learned, table = model.params["positions"], position_table(model)
    start = pooling == "class"
    assert len(table) == 6 + start
    assert np.array_equal(table[start + 5], [*learned["columns"][2], *learned["rows"][1]])
    fixed = position_table(make_model(pooling=pooling, positions="sincos2d"))
    x, y, waves = 2, 1, (math.sin, math.cos)  # the last patch; the frequencies are 1 and 1 / 10000
    expected = [wave(at * omega) for at in (x, y) for wave in waves for omega in (1, 1e-4)]
    np.testing.assert_allclose(fixed[start + 5], expected, rtol=1e-12)
    if start:
        assert np.array_equal(table[0], learned["class_token"])
        assert not fixed[0].any()


@pytest.mark.parametrize("positions", ["none", "relative"])
def test_models_without_a_table_of_positions_are_rejected(positions):
    with pytest.raises(ValueError, match=f"positions='{positions}' has no table of embeddings"):
        position_table(make_model(positions=positions))


def test_the_components_are_the_patterns_in_which_filters_vary():
    rng = np.random.default_rng(8)
    patterns = np.linalg.qr(rng.normal(size=(12, 2)))[0].T  # orthonormal, (2, 12)
    amounts = np.linalg.qr(rng.normal(size=(40, 3)) - [0.1, 0, 0])[0]
    amounts = amounts - amounts.mean(0)
    amounts = np.linalg.qr(amounts[:, :2])[0] * [2, 1]  # variances 4 : 1, zero mean
    kernel = (50 * rng.normal(size=12) + amounts @ patterns).T.copy()
    components, explained = patch_filters(kernel, 2, 2)
    assert components.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(explained, [0.8, 0.2], rtol=1e-9)
    for component, pattern in zip(components, patterns, strict=True):
        signed = pattern if pattern.max() == abs(pattern).max() else -pattern
        expected = (signed - signed.min()) / (signed.max() - signed.min())
        np.testing.assert_allclose(component.reshape(-1), expected, atol=1e-9)
        assert (component.min(), component.max()) == (0, 1)
    np.testing.assert_allclose(patch_filters(-kernel, 2, 2)[0], components, atol=1e-9)  # the sign


@pytest.mark.parametrize(("shape", "most"), [((12, 30), 12), ((12, 9), 8)])
def test_the_number_of_components_is_limited(shape, most):
    kernel = np.random.default_rng(9).normal(size=shape)
    assert len(patch_filters(kernel, 2, most)[0]) == most
    for count in (most + 1, 0, -1, 28):
        with pytest.raises(ValueError, match=f"must be 1 to {most} for .*: {count}"):
            patch_filters(kernel, 2, count)
    with pytest.raises(ValueError, match="a kernel with 12 rows does not fit patches of side 4"):
        patch_filters(kernel, 4, 1)


# --- arrays of a device -----------------------------------------------------------------------

A3, G3 = random_attention(2, 3, 2, 7, 7), np.random.default_rng(6).normal(size=(2, 3, 2, 7, 7))
M3, BOXES3 = abs(G3[0, :, 0, :2, :3]), np.array([[0, 1, 3, 4], [1, 1, 2, 5], [2, 3, 4, 6]])
ON_DEVICE = {
    "patch_maps": (lambda A: patch_maps(A, (2, 3)), A3),
    "rollout": (attention_rollout, A3),
    "rollout, max, discard": (lambda A: attention_rollout(A, "max", 0.6), A3),
    "map of a query": (lambda A: patch_maps(A, (2, 3), (1, 0)), A3),
    "sinks": (lambda A: attention_sinks(A, (2, 3)) + A.sum(), A3),
    "mean_attention_distance": (lambda A: mean_attention_distance(A, (2, 3), 4), A3),
    "renormalised": (lambda A: mean_attention_distance(A, (2, 3), 4, renormalise=True), A3),
    "gradient_weighted_rollout": (gradient_weighted_rollout, A3, G3),
    "gradient_weighted_sum": (gradient_weighted_sum, A3, G3),
    "fraction_in_box": (lambda maps, boxes: fraction_in_box(maps, boxes, 2), M3, BOXES3),
    "position_similarity": (lambda table: position_similarity(table, (2, 3)), G3[0, 0, 0]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ON_DEVICE)
def test_functions_run_on_the_device_in_the_dtype_of_the_input(name, dtype):
    function, *arguments = ON_DEVICE[name]
    arguments = [a.astype(dtype) if a.dtype.kind == "f" else a for a in arguments]
    expected = function(*arguments)
    actual = function(*map(xp.asarray, arguments))
    assert type(actual) is xp.ndarray
    assert actual.dtype == expected.dtype == dtype
    np.testing.assert_allclose(actual.get(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("positions", ["1d", "2d", "sincos2d"])
def test_gradients_and_positions_are_computed_on_the_device(positions):
    model, images = make_model(positions=positions), make_images()
    leaves = {name: xp.asarray(leaf) for name, leaf in flatten(model.params).items()}
    on_device = ViT(model.config, unflatten(leaves))
    actual = attention_gradients(on_device, xp.asarray(images), [4, 0, 2])
    expected = attention_gradients(model, images, [4, 0, 2])
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(position_table(on_device).get(), position_table(model), rtol=1e-12)
