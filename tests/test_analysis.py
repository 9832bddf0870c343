"""Attention maps, relevance, attention distance, embeddings, localisation, and their figures."""

import importlib
import inspect
import itertools
import math
import re
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
from helpers.models import tiny_model
from helpers.on_device import xp
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from minivit import ViT, ViTConfig, data, flatten, unflatten
from minivit.analysis import (
    IMAGE_KINDS,
    KINDS,
    attention_gradients,
    attention_rollout,
    box_area_fraction,
    fraction_in_box,
    gradient_weighted_rollout,
    gradient_weighted_sum,
    localisation,
    localisation_scores,
    mean_attention_distance,
    patch_filters,
    patch_maps,
    plot_attention,
    plot_curves,
    plot_distances,
    plot_filters,
    plot_gradients,
    plot_held_out,
    plot_model,
    plot_similarity,
    position_similarity,
    position_table,
    save_figure,
)
from minivit.analysis.plots import model as plots_model
from minivit.analysis.plots.attention import overlay
from minivit.layers import softmax
from minivit.models import infer


def random_attention(*shape, dtype="float64"):
    """Return rows of positive numbers that sum to one."""
    return softmax(np.random.default_rng(0).normal(size=shape).astype(dtype))[0]


# --- attention maps and rollout ---------------------------------------------------------------


def test_a_map_is_the_row_of_the_class_token_or_the_mean_of_all_rows():
    A = np.stack([np.arange(49.0).reshape(7, 7), np.eye(7)])  # two layers
    assert patch_maps(A, (2, 3)).tolist() == [[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [0, 0, 0]]]
    A = np.arange(36.0).reshape(6, 6)  # without a class token
    assert patch_maps(A, (3, 2)).tolist() == [[15, 16], [17, 18], [19, 20]]


@pytest.mark.parametrize(
    "function",
    [
        patch_maps,
        lambda A, grid: mean_attention_distance(A, grid, 4),
        lambda A, grid: position_similarity(A[0, 0, 0], grid),
        lambda A, grid: plot_attention(np.zeros((1, 4, 6, 1)), A, grid),
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


def make_model(**fields):
    """Return a small model whose attention is not nearly uniform."""
    sizes = {"image_size": (4, 6), "patch_size": 2, "classes": 5, "depth": 2}
    return tiny_model(scale=0.5, **sizes | fields)


def make_images(n=3, channels=1):
    return np.random.default_rng(4).uniform(-1, 1, (n, 4, 6, channels))


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


# --- figures ----------------------------------------------------------------------------------

LOG = [
    {"epoch": 1, "loss": 2.0, "held_out_loss": 1.5, "held_out_accuracy": 0.50},
    {"epoch": 2, "loss": 1.0, "held_out_loss": 0.8, "held_out_accuracy": 0.75},
    {"epoch": 3, "loss": 0.5, "held_out_loss": 0.6, "held_out_accuracy": 0.98},
]
BOXES = np.array([[0, 1, 2, 5], [1, 2, 4, 6]])


def images_and_attention(channels=1, heads=2):
    images = np.random.default_rng(1).uniform(-1, 1, (2, 4, 6, channels)).astype("float32")
    A = random_attention(3, 2, heads, 7, 7, dtype="float32")
    return images, A, np.random.default_rng(2).normal(size=A.shape).astype("float32")


def shown_in(axis):
    """Return the array that an axis shows."""
    (image,) = axis.get_images()
    assert list(image.get_extent()) == [0, 6, 4, 0]  # the pixels of the images
    return np.asarray(image.get_array())


def box_in(axis):
    """Return left, top, width and height of each box drawn in an axis."""
    return [frame.get_bbox().bounds for frame in axis.patches]


@pytest.mark.parametrize(("layer", "number"), [(0, 1), (-1, 3)])
@pytest.mark.parametrize("overlaid", [False, True])
@pytest.mark.parametrize(("with_gradients", "with_boxes"), [(True, False), (False, True)])
def test_each_image_is_shown_with_its_maps(layer, number, overlaid, with_gradients, with_boxes):
    images, A, dA = images_and_attention(3 if overlaid else 1)
    maps = {"rollout": attention_rollout(A)}
    if with_gradients:
        maps["gradient-weighted"] = gradient_weighted_rollout(A, dA)
    maps |= {f"layer {number}, head {i + 1}": A[layer][:, i] for i in range(2)}
    titles = ["a_$cat$.png\ncat (50%)", "dog.png"]
    gradients, boxes = dA if with_gradients else None, BOXES if with_boxes else None
    figure = plot_attention(images, A, (2, 3), titles, layer, gradients, boxes, overlaid)
    assert isinstance(figure, Figure)
    rows = np.reshape(figure.axes, (2, len(maps) + 1))
    for b, row in enumerate(rows):
        assert [axis.get_title() for axis in row] == [titles[b], *maps]
        np.testing.assert_allclose(shown_in(row[0]), np.squeeze((images[b] + 1) / 2), atol=1e-6)
        for axis, R in zip(row[1:], maps.values(), strict=True):
            M = patch_maps(R[b], (2, 3))
            expected = (overlay(images[b], M) + 1) / 2 if overlaid else M
            np.testing.assert_allclose(shown_in(axis), expected, atol=1e-6)
        for axis in row:
            assert box_in(axis) == ([[(1, 0, 4, 2), (2, 1, 4, 3)][b]] if with_boxes else [])


@pytest.mark.parametrize(
    ("heads", "rows", "columns"), [(3, 1, 6), (4, 1, 7), (12, 3, 5), (16, 4, 5)]
)
def test_a_large_number_of_heads_is_arranged_in_rows(heads, rows, columns):
    images, A, dA = images_and_attention(heads=heads)
    figure = plot_attention(images, A, (2, 3), gradients=dA, boxes=BOXES)
    for block in np.reshape(figure.axes, (2, rows * columns)):
        for i, axis in enumerate(block):
            used = i < heads + 3
            assert len(axis.get_images()) == len(box_in(axis)) == axis.get_frame_on() == used


@pytest.mark.parametrize(("layer", "number"), [(0, 1), (-1, 3)])
def test_each_gradient_is_below_its_attention(layer, number):
    images, A, dA = images_and_attention()
    dA[:, 1, 1] = 0  # a head without gradient
    titles = ["a seven", "a one"]
    figure = plot_gradients(images, A, dA, (2, 3), titles, layer, BOXES)
    axes = np.reshape(figure.axes, (4, 3))
    names = [f"layer {number}, head 1", f"layer {number}, head 2"]
    for b in range(2):
        upper, lower = ([axis.get_title() for axis in row] for row in axes[2 * b : 2 * b + 2])
        assert upper == [titles[b], *(f"A, {name}" for name in names)]
        assert lower == ["", *(f"dA, {name}" for name in names)]
    for b, h in np.ndindex(2, 2):
        upper, lower = axes[2 * b, h + 1], axes[2 * b + 1, h + 1]
        np.testing.assert_allclose(shown_in(upper), patch_maps(A[layer, b, h], (2, 3)))
        expected = patch_maps(dA[layer, b, h], (2, 3))
        np.testing.assert_allclose(shown_in(lower), expected)
        image = lower.get_images()[0]
        low, high = image.get_clim()
        assert (low, high) == (-high, pytest.approx(abs(expected).max() or 1))
        red, _, blue, _ = image.to_rgba(np.array([high]))[0]
        assert blue > red  # positive values are purple, as the caption says
        assert len(box_in(upper)) == len(box_in(lower)) == 1
    assert "more attention raises (purple)" in figure.get_supxlabel().replace("\n", " ")


def test_an_overlay_is_grey_at_the_minimum_and_coloured_at_the_maximum():
    image = np.zeros((20, 30, 3), np.float32) + np.array([0.5, -0.5, 0.1], np.float32)
    M = np.zeros((2, 3), np.float32)
    M[0, 0] = 0.4
    shown = overlay(image, M)
    assert shown.shape == (20, 30, 3)
    grey = 0.299 * 0.5 - 0.587 * 0.5 + 0.114 * 0.1
    dark, bright = (2 * np.array(colormaps["inferno"](x)[:3]) - 1 for x in (0.0, 1.0))
    np.testing.assert_allclose(shown[15:, 20:], 0.7 * grey + 0.3 * dark * np.ones((5, 10, 1)))
    np.testing.assert_allclose(shown[:5, :5], 0.2 * grey + 0.8 * bright * np.ones((5, 5, 1)))
    between = shown[2, 4:16, 0]  # from the centre of the first patch to the next
    assert len(set(between.round(4))) > 8  # interpolated


def test_an_overlay_is_scaled_to_the_97th_percentile():
    def levels(M):
        """The opacity of each patch, which is linear in its brightness, mapped to [0, 1]."""
        black, white = (overlay(np.full((*M.shape, 3), c), M)[..., 0] for c in (-1.0, 1.0))
        return (0.7 - (white - black) / 2) / 0.5

    glow = levels(np.arange(101.0).reshape(1, 101) + 7)
    np.testing.assert_allclose(glow[0], np.minimum(np.arange(101) / 97, 1), atol=1e-12)
    np.testing.assert_allclose(levels(np.full((3, 4), 0.2, np.float32)), 0, atol=1e-12)
    single = np.zeros((10, 10))
    single[4, 5] = 0.3  # the percentile is zero
    np.testing.assert_allclose(levels(single), single / 0.3, atol=1e-12)


LONG = "a_long_file_name_of_a_photograph.jpeg\n" + "a dog with quite a long name " * 4


@pytest.mark.parametrize("titles", [["a"], [LONG, LONG]])
@pytest.mark.parametrize("size", [(16, 16), (32, 16), (16, 96)])
@pytest.mark.parametrize("heads", [1, 9])
@pytest.mark.parametrize("gradients", [False, True])
def test_no_text_is_cut_or_overlaps_a_panel(size, titles, heads, gradients):
    images, A = np.zeros((2, *size, 3), np.float32), random_attention(1, 2, heads, 5, 5)
    plot = plot_gradients if gradients else plot_attention
    figure = plot(images, *[A] * (1 + gradients), (2, 2), titles)
    figure.draw_without_rendering()
    panels = [axis for axis in figure.axes if axis.get_images()]
    titles = [axis.title.get_window_extent() for axis in panels if axis.get_title()]
    caption = figure._supxlabel.get_window_extent()
    boxes = [axis.get_window_extent() for axis in panels]
    for text in (*titles, caption):
        assert figure.bbox.x0 <= text.x0 < text.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= text.y0 < text.y1 <= figure.bbox.y1
        assert not any(text.overlaps(box) for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(titles, 2))
    for box in boxes:
        assert box.height / box.width == pytest.approx(size[0] / size[1])
        assert 1.2 < box.width / figure.dpi < 1.7  # inches: not squeezed by the layout


def test_distances_are_a_dot_per_head_above_its_layer():
    (axis,) = plot_distances(np.array([[10.0, 20, 30], [40, 130, 60]]), 116.5).axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("layer", "mean attention distance (pixels)")
    uniform, heads = axis.get_lines()
    assert list(uniform.get_ydata()) == [116.5, 116.5]
    assert list(heads.get_xdata()) == [1, 1, 1, 2, 2, 2]
    assert list(heads.get_ydata()) == [10, 20, 30, 40, 130, 60]
    assert axis.get_ylim()[0] == 0
    assert axis.get_ylim()[1] > 130
    assert len(axis.get_legend().get_texts()) == 2


def test_the_similarity_maps_are_at_the_positions_of_their_patches():
    similarity = np.random.default_rng(0).uniform(-1, 1, (2, 3, 2, 3))
    axis, bar = plot_similarity(similarity).axes
    (image,) = axis.get_images()
    mosaic = np.ma.filled(image.get_array(), np.nan)
    expected = np.full((5, 11), np.nan)  # one empty row and two empty columns
    for i, j in np.ndindex(2, 3):
        expected[3 * i : 3 * i + 2, 4 * j : 4 * j + 3] = similarity[i, j]
    np.testing.assert_equal(mosaic, expected)
    assert image.get_clim() == (-1, 1)
    assert bar.get_ylabel() == "cosine similarity"


@pytest.mark.parametrize("grid", [(24, 24), (14, 14), (32, 32), (7, 7), (10, 20), (2, 16), (1, 1)])
def test_the_tick_labels_of_the_similarity_do_not_overlap(grid):
    figure = plot_similarity(np.zeros((*grid, *grid)))
    figure.draw_without_rendering()
    axis, bar = figure.axes
    for ticks, n in ((axis.xaxis, grid[1]), (axis.yaxis, grid[0])):
        numbers = [int(text.get_text()) for text in ticks.get_ticklabels()]
        assert numbers == list(range(1, n + 1, numbers[1] - 1 if len(numbers) > 1 else n))
        assert list(ticks.get_majorticklocs()) == [
            (number - 1) * (n + 1) + (n - 1) / 2 for number in numbers
        ]
        extents = [text.get_window_extent() for text in ticks.get_ticklabels()]
        for a, b in itertools.pairwise(extents):
            assert max(b.x0 - a.x1, a.y0 - b.y1) > 4
    for text in (axis.xaxis.label, axis.yaxis.label, bar.yaxis.label):
        extent = text.get_window_extent()
        assert (extent.min > 0).all()
        assert (extent.max < figure.bbox.max).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_are_arranged_in_rows_of_seven(channels):
    filters = np.random.default_rng(0).uniform(0, 1, (9, 4, 6, channels))
    figure = plot_filters(filters, np.full(9, 0.1))
    axes = figure.axes
    assert len(axes) == 14
    assert [bool(axis.get_images()) for axis in axes] == [True] * 9 + [False] * 5
    np.testing.assert_allclose(shown_in(axes[8]), np.squeeze(filters[8]), atol=1e-12)
    expected = "9 principal components of the filters: 90% of the variance"
    assert figure.get_suptitle() == expected


def test_curves_show_losses_and_error_rates():
    left, right = plot_curves(LOG, baseline=0.96).axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("epoch", "epoch")
    assert left.get_ylabel() == "cross-entropy (nats)"
    assert right.get_ylabel() == "error rate (%)"
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
    (errors,) = plot_curves(LOG).axes[1].get_lines()
    assert errors.get_label() == "ViT, held out"


@pytest.mark.parametrize("worst", [1.0, 0.85, 0.1, 0.0])
@pytest.mark.parametrize("ratio", [0.98, 0.6, 0.02])
def test_error_rates_have_several_ticks_with_plain_numbers(worst, ratio):
    log = [LOG[0] | {"epoch": e + 1, "held_out_accuracy": 1 - worst * ratio**e} for e in (0, 1)]
    figure = plot_curves(log)
    figure.draw_without_rendering()
    axis = figure.axes[1].yaxis
    low, high = axis.get_view_interval()
    best, log_scale = 100 * worst * ratio, axis.get_scale() == "log"
    assert best / 2 < low < best if log_scale else low == 0
    assert log_scale or worst == 0 or 100 * worst < high < 120 * worst
    ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    assert len(ticks) > 1
    for tick in ticks:
        assert float(tick.label1.get_text()) == pytest.approx(tick.get_loc())
    assert not any(tick.label1.get_text() for tick in axis.get_minor_ticks())


@pytest.mark.parametrize("n", [1, 3, 10, 11, 40])
def test_epochs_and_layers_are_integers_and_few_epochs_have_markers(n):
    log = [LOG[0] | {"epoch": 1 + e, "loss": 2.0 - e / 40} for e in range(n)]
    left, right = plot_curves(log, 0.96).axes
    for line in (*left.get_lines(), right.get_lines()[0]):
        assert line.get_marker() == ("o" if n <= 10 else "None")
    assert left.get_ylim()[0] == 0
    assert left.get_ylim()[1] > 1.02 * 2.0  # the highest marker is not cut
    for axis in (left, right, *plot_distances(np.ones((n, 2)), 2.0).axes):
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks == [round(tick) for tick in ticks]
        assert ticks == list(range(1, n + 1)) if n < 6 else 2 < len(ticks) < 14


# --- from a model to a figure -----------------------------------------------------------------


@pytest.fixture
def recorded(monkeypatch):
    """Replace the plotting functions by functions that return their name and arguments."""

    def record(function):
        def return_arguments(*args, **kwargs):
            bound = inspect.signature(function).bind(*args, **kwargs)
            bound.apply_defaults()
            return function.__name__, bound.arguments

        return return_arguments

    for function in (plot_attention, plot_gradients, plot_distances, plot_similarity, plot_filters):
        monkeypatch.setattr(plots_model, function.__name__, record(function))


def make_dataset(with_boxes, classes="0123456789"):
    """Return a data set of twenty images with the labels 9, 8, ..., 0, 9, ..., 0."""
    labels, images = np.arange(20)[::-1] % 10, make_images(20)
    boxes = np.array([[b % 3, b % 5, 4, 6] for b in range(20)]) if with_boxes else None
    return data.Dataset("some", images, labels, images, labels, tuple(classes), boxes, boxes)


@pytest.mark.parametrize("with_boxes", [True, False])
@pytest.mark.parametrize(("kind", "count"), [("maps", 5), ("gradients", 3)])
def test_held_out_maps_show_the_first_image_of_each_class(recorded, kind, count, with_boxes):
    model, dataset = make_model(classes=10), make_dataset(with_boxes, classes="abcdefghij")
    name, arguments = plot_held_out(model, dataset, kind, 1)
    assert name == {"maps": "plot_attention", "gradients": "plot_gradients"}[kind]
    first = [9 - label for label in range(count)]
    images = dataset.held_out_images[first]
    predicted = model(images).argmax(-1)
    A, dA = attention_gradients(model, images, predicted)
    expected = {
        "images": images, "attention": A, "gradients": dA, "grid": (2, 3), "layer": 1,
        "titles": [f"{'abcdefghij'[i]}, predicted {'abcdefghij'[c]}"
                   for i, c in enumerate(predicted)],
        "boxes": dataset.held_out_boxes[first] if with_boxes else None,
    }  # fmt: skip
    assert not arguments.pop("overlaid", False)
    np.testing.assert_equal(arguments, expected)


def test_missing_classes_are_skipped(recorded):
    labels = np.array([7, 1, 1, 9, 3, 7, 0])
    dataset = make_dataset(False)._replace(held_out_images=make_images(7), held_out_labels=labels)
    _, arguments = plot_held_out(make_model(classes=10), dataset, "gradients")
    np.testing.assert_array_equal(arguments["images"], make_images(7)[[6, 1, 4]])


def test_distances_are_means_over_many_images(recorded, monkeypatch):
    model, dataset = make_model(classes=10), make_dataset(False)
    monkeypatch.setattr(plots_model, "EXAMPLES", 7)
    name, arguments = plot_held_out(model, dataset, "distance")
    assert name == "plot_distances"
    A = model.attention(dataset.held_out_images[:14:2])  # every second of twenty
    expected = mean_attention_distance(A, (2, 3), 2)
    np.testing.assert_allclose(arguments["distances"], expected, rtol=1e-12)
    uniform = mean_attention_distance(np.full((1, 1, 1, 7, 7), 1 / 7), (2, 3), 2)
    assert arguments["uniform"] == pytest.approx(uniform[0, 0])


def test_positions_and_filters_need_no_images(recorded):
    model = make_model()
    name, arguments = plot_model(model, "positions")
    assert name == "plot_similarity"
    table = model.params["positions"]["table"][1:]
    cosine = table[0] @ table[5] / math.sqrt(table[0] @ table[0] * (table[5] @ table[5]))
    assert arguments["similarity"][0, 0, 1, 2] == pytest.approx(cosine)
    name, arguments = plot_model(model, "filters")
    assert name == "plot_filters"
    assert arguments["filters"].shape == (4, 2, 2, 1)  # patches of four pixels have no more
    assert arguments["explained"].sum() == pytest.approx(1)
    for width, count in ((40, 28), (4, 3)):
        _, arguments = plot_model(make_model(channels=8, width=width), "filters")
        assert arguments["filters"].shape == (count, 2, 2, 8)


@pytest.mark.parametrize("kind", ["maps", "gradients"])
@pytest.mark.parametrize("family", ["minivit", "dino"])
def test_colours_are_those_of_the_photograph(recorded, family, kind):
    model = make_model(channels=3, preprocessing=family, classes=10)
    images = make_images(2, channels=3).astype("float32")
    _, arguments = plot_model(model, kind, images, ["one", "two"], boxes=BOXES)
    mean, std = (0.5, 0.5)
    if family == "dino":
        mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    np.testing.assert_allclose((arguments["images"] + 1) / 2, images * std + mean, atol=1e-6)
    assert arguments["titles"] == ["one", "two"]
    assert arguments["boxes"] is BOXES
    assert arguments.get("overlaid", True)


def test_a_model_without_a_classifier_has_maps_but_no_gradients(recorded):
    model = make_model(classes=None)
    name, arguments = plot_model(model, "maps", make_images())
    assert (name, arguments["gradients"]) == ("plot_attention", None)
    np.testing.assert_array_equal(arguments["attention"], model.attention(make_images()))
    with pytest.raises(ValueError, match="the model has no classifier"):
        plot_model(model, "gradients", make_images())


def test_a_hybrid_measures_distances_in_pixels_and_has_no_filters(recorded):
    shape = {"image_size": (16, 24), "channels": 3, "classes": 4, "patch_size": 1}
    shape |= {"width": 8, "depth": 1, "heads": 2, "mlp_width": 8}
    model = ViT.create(ViTConfig(**shape, stem=(1, 1), stem_width=32))  # a token per 8 pixels
    assert model.config.grid == (2, 3)
    images = np.zeros((2, 16, 24, 3), np.float32)
    _, arguments = plot_model(model, "distance", images)
    uniform = mean_attention_distance(np.full((1, 1, 1, 7, 7), 1 / 7), (2, 3), 8)
    assert arguments["uniform"] == pytest.approx(uniform[0, 0])
    with pytest.raises(ValueError, match="the patch embedding of a hybrid has no filters"):
        plot_model(model, "filters")
    boxes = np.array([[0, 0, 16, 12], [8, 8, 16, 24]])
    maps = patch_maps(attention_rollout(model.attention(images)), (2, 3))
    expected = fraction_in_box(maps, boxes, 8).mean()
    assert localisation_scores(model, images, boxes)["rollout"] == pytest.approx(expected)


def test_an_unknown_kind_is_rejected():
    with pytest.raises(ValueError, match="unknown kind 'map': choose maps, distance, positions"):
        plot_model(make_model(), "map", make_images())


# --- figures as files -------------------------------------------------------------------------


def all_figures():
    """Return a figure of each plotting function by name."""
    titles = ["a seven", r"a $\nothing$ name"]  # not a formula
    model = make_model(classes=10, channels=3)
    images = {kind: make_images(2, channels=3) for kind in IMAGE_KINDS}
    return {
        "curves": lambda: plot_curves(LOG, 0.96),
        **{k: lambda k=k: plot_model(model, k, images.get(k), titles, boxes=BOXES) for k in KINDS},
    }


@pytest.mark.parametrize("name", all_figures())
def test_the_same_figure_is_the_same_bytes(name, tmp_path):
    plot = all_figures()[name]
    for path in ("first.png", "second.png"):
        save_figure(plot(), tmp_path / path)
    first, second = ((tmp_path / path).read_bytes() for path in ("first.png", "second.png"))
    assert first == second
    assert first.startswith(b"\x89PNG\r\n")
    assert b"matplotlib" not in first.lower()  # no version number, which changes with updates
    assert len(first) > 5000


@pytest.mark.parametrize("exists", [True, False])
def test_pyplot_figures_are_closed_and_a_missing_folder_is_named(tmp_path, exists):
    path = tmp_path / "figure.png" if exists else tmp_path / "missing" / "figure.png"
    figure, _ = plt.subplots()
    assert plt.get_fignums()
    with nullcontext() if exists else pytest.raises(FileNotFoundError) as error:
        save_figure(figure, path)
    assert exists or error.value.filename == str(path)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("text", ["\uace0\uc591\uc774", "\u05d7\u05ea\u05d5\u05dc", "\u0f40"])
def test_missing_glyphs_are_drawn_without_a_warning(tmp_path, caplog, text):
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.4, text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "figure.png")
    assert caplog.messages == []
    assert (np.asarray(Image.open(tmp_path / "figure.png").convert("L")) < 128).any()


def test_an_interrupted_figure_leaves_the_old_file(tmp_path, monkeypatch):
    path, figure = tmp_path / "a.png", Figure()
    save_figure(figure, path)
    before = path.read_bytes()

    def write_half(file, **style):
        file.write(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", write_half)
    with pytest.raises(KeyboardInterrupt):
        save_figure(figure, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
