"""Figures: attention maps, gradients, distances, embeddings, training curves, and files."""

import inspect
import io
import itertools
import math
import sys
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from helpers.attention import make_images, make_model, random_attention
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from PIL import Image

import minivit
from minivit import ViT, ViTConfig, data
from minivit.analysis import (
    IMAGE_KINDS,
    KINDS,
    attention_gradients,
    attention_maps,
    attention_rollout,
    fraction_in_box,
    localisation_scores,
    mean_attention_distance,
    patch_maps,
    plot_curves,
    plot_distances,
    plot_filters,
    plot_gradients,
    plot_held_out,
    plot_map,
    plot_maps,
    plot_model,
    plot_similarity,
    save_figure,
)
from minivit.analysis.plots import figure as plots_figure
from minivit.analysis.plots import model as plots_model
from minivit.analysis.plots.attention import overlay

LOG = [
    {"epoch": 1, "loss": 2.0, "validation_loss": 1.5, "accuracy": 0.4, "validation_accuracy": 0.50},
    {"epoch": 2, "loss": 1.0, "validation_loss": 0.8, "accuracy": 0.7, "validation_accuracy": 0.75},
    {"epoch": 3, "loss": 0.5, "validation_loss": 0.6, "accuracy": 0.9, "validation_accuracy": 0.98},
]
LOG = [row | {"learning_rate": rate} for row, rate in zip(LOG, (0.1, 0.2, 0.05), strict=True)]
BOXES = np.array([[0, 1, 2, 5], [1, 2, 4, 6]])


# --- maps over images -------------------------------------------------------------------------


def make_arrays(channels=1, heads=2):
    """Return two images, attention of three layers, and its gradients."""
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


def panels_of(figure, *shape):
    """Return the axes of the panels in this shape, and those of the colour bars."""
    count = math.prod(shape)
    return np.reshape(figure.axes[:count], shape), figure.axes[count:]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("with_boxes", [True, False])
def test_each_image_is_shown_with_its_maps(channels, with_boxes):
    images, A, _ = make_arrays(channels)
    R = attention_rollout(A)
    rows = [{"rollout": R}, {"one": A[0, :, 0], "two": A[1, :, 1]}]
    rows = [{title: patch_maps(M, (2, 3)) for title, M in row.items()} for row in rows]
    titles = ["a_$cat$.png\ncat (50%)", "dog.png"]
    figure = plot_maps(images, rows, titles, BOXES if with_boxes else None, "A note.")
    assert isinstance(figure, Figure)
    assert figure.get_supxlabel() == "A note."
    panels, (bar,) = panels_of(figure, 2, 2, 3)
    for b, (upper, lower) in enumerate(panels):
        assert [axis.get_title() for axis in upper] == [titles[b], "rollout", ""]
        assert [axis.get_title() for axis in lower] == ["", "one", "two"]
        shown = {"": images[b]} | {t: overlay(images[b], M[b]) for r in rows for t, M in r.items()}
        used = [upper[0], upper[1], lower[1], lower[2]]
        for axis, picture in zip(used, shown.values(), strict=True):
            np.testing.assert_allclose(shown_in(axis), np.squeeze((picture + 1) / 2), atol=1e-6)
            assert box_in(axis) == ([[(1, 0, 4, 2), (2, 1, 4, 3)][b]] if with_boxes else [])
        for axis in (upper[2], lower[0]):
            assert not axis.get_images()
            assert not axis.get_frame_on()
    assert bar.get_xlabel() == "attention, relative to the range of each map"
    labels = [label.get_text() for label in bar.get_xticklabels()]
    assert labels == ["minimum", "97th percentile"]
    (colours,) = [c for c in bar.get_children() if isinstance(c, QuadMesh)]
    assert colours.get_cmap().name == "inferno"  # as the overlay


@pytest.mark.parametrize("size", [(4, 6), (8, 8)])
def test_a_single_map_has_a_colour_bar_with_its_values(size):
    image, M = np.zeros((*size, 1), np.float32), np.array([[0.01, 0.02, 0.05], [0.04, 0.02, 0.02]])
    figure, given = plot_map(image, M), plt.subplots()[1]
    axis, bar = figure.axes
    assert bar.get_ylabel() == "attention"
    assert bar.get_ylim() == pytest.approx((0.01, np.quantile(M, 0.97)))
    shown, _ = axis.get_images()
    np.testing.assert_allclose(shown.get_array(), (overlay(image, M) + 1) / 2)
    assert (axis.get_xlim(), axis.get_ylim()) == ((0, size[1]), (size[0], 0))
    plot_map(image, M, given)
    assert len(given.get_images()) == 2
    plt.close(given.figure)


@pytest.mark.parametrize(("layer", "number"), [(0, 1), (-1, 3)])
def test_each_gradient_is_below_its_attention(layer, number):
    images, A, dA = make_arrays()
    dA[:, 1, 1] = 0  # a head without gradient
    titles = ["a seven", "a one"]
    figure = plot_gradients(images, A, dA, (2, 3), titles, layer, BOXES)
    axes, bars = panels_of(figure, 4, 3)
    names = [f"layer {number}, head 1", f"layer {number}, head 2"]
    for b in range(2):
        upper, lower = ([axis.get_title() for axis in row] for row in axes[2 * b : 2 * b + 2])
        assert upper == [titles[b], *(f"A, {name}" for name in names)]
        assert lower == ["", *(f"dA, {name}" for name in names)]
    for b, h in np.ndindex(2, 2):
        upper, lower = axes[2 * b, h + 1], axes[2 * b + 1, h + 1]
        expected = overlay(images[b], patch_maps(A[layer, b, h], (2, 3)))
        np.testing.assert_allclose(shown_in(upper), (expected + 1) / 2, atol=1e-6)
        expected = patch_maps(dA[layer, b, h], (2, 3))
        np.testing.assert_allclose(shown_in(lower), expected)
        image = lower.get_images()[0]
        low, high = image.get_clim()
        assert (low, high) == (-high, pytest.approx(abs(expected).max() or 1))
        red, _, blue, _ = image.to_rgba(np.array([high]))[0]
        assert blue > red  # positive values are purple, as the caption says
        assert len(box_in(upper)) == len(box_in(lower)) == 1
    labels = [bar.get_xlabel().partition(",")[0] for bar in bars]
    assert labels == ["dA", "A"]
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


def test_an_overlay_of_a_grey_image_uses_its_mean():
    image, M = np.random.default_rng(0).uniform(-1, 1, (4, 6, 2)), np.zeros((2, 3))
    dark = 2 * np.array(colormaps["inferno"](0.0)[:3]) - 1
    expected = 0.7 * image.mean(-1, keepdims=True) + 0.3 * dark
    np.testing.assert_allclose(overlay(image, M), expected)


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
@pytest.mark.parametrize("size", [(32, 16), (16, 96)])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("gradients", [False, True])
def test_no_text_is_cut_or_overlaps_a_panel(size, titles, heads, gradients):
    images, A = np.zeros((2, *size, 3), np.float32), random_attention(1, 2, heads, 5, 5)
    if gradients:
        figure = plot_gradients(images, A, A, (2, 2), titles)
    else:
        maps = {f"a long title of map {i}, layer 1": A[0, :, i, 1:3, 1:3] for i in range(heads)}
        figure = plot_maps(images, [maps, maps], titles, note="A note on this figure. " * 9)
    figure.draw_without_rendering()
    panels = [axis for axis in figure.axes if axis.get_images()]
    bars = [axis for axis in figure.axes if axis.get_xlabel()]
    titles = [axis.title.get_window_extent() for axis in panels if axis.get_title()]
    caption = figure._supxlabel.get_window_extent()
    boxes = [axis.get_window_extent() for axis in panels]
    labels = [bar.xaxis.label.get_window_extent() for bar in bars]
    assert len(labels) == 1 + gradients
    for text in (*titles, *labels, caption):
        assert figure.bbox.x0 <= text.x0 < text.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= text.y0 < text.y1 <= figure.bbox.y1
        assert not any(text.overlaps(box) for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations([*titles, *labels, caption], 2))
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
    assert image.get_cmap().name == "PuOr"
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


def test_few_filters_are_in_one_row():
    (axis,) = plot_filters(np.zeros((3, 2, 2, 1)), np.ones(3) / 3).axes
    assert axis.get_images()[0].get_array().shape == (2, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_are_arranged_in_rows_of_seven(channels):
    filters = np.random.default_rng(0).uniform(0, 1, (9, 4, 6, channels))
    figure = plot_filters(filters, np.full(9, 0.1))
    (axis,) = figure.axes
    mosaic = np.ones((9, 48, channels))  # rows of 4 + 1 and columns of 6 + 1, the last without gap
    for i, component in enumerate(filters):
        row, column = divmod(i, 7)
        mosaic[5 * row : 5 * row + 4, 7 * column : 7 * column + 6] = component
    (image,) = axis.get_images()
    np.testing.assert_allclose(image.get_array(), np.squeeze(mosaic), atol=1e-12)
    assert axis.get_title() == "9 principal components of the filters: 90% of the variance"


@pytest.mark.parametrize(
    "plot",
    [
        lambda ax: plot_distances(np.ones((2, 2)), 1.0, ax),
        lambda ax: plot_similarity(np.zeros((2, 3, 2, 3)), ax),
        lambda ax: plot_filters(np.zeros((3, 2, 2, 1)), np.ones(3) / 3, ax),
        lambda ax: plot_map(np.zeros((4, 4, 3)), np.eye(2), ax),
    ],
)
def test_figures_with_one_panel_are_drawn_into_given_axes(plot):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot(right) is figure
    assert right.has_data()
    assert not left.has_data()


def test_curves_show_losses_error_rates_and_the_learning_rate():
    title, note = "ViT-Ti/4 on the $digits$, seed 3", "Why the training loss is higher. " * 9
    figure = plot_curves(LOG, title, note, baseline=0.96, test=0.97, bound=0.4)
    losses, errors, rates = figure.axes
    assert figure.get_suptitle() == title
    assert figure.get_supxlabel().replace("\n", " ").strip() == note.strip()
    assert [axis.get_xlabel() for axis in figure.axes] == ["epoch"] * 3
    labels = [axis.get_ylabel() for axis in figure.axes]
    rate = "learning rate"
    assert labels == ["cross-entropy (nats)", "error rate (%)", rate]
    training, validation, bound = losses.get_lines()
    assert training.get_xdata() == pytest.approx([1, 2, 3])
    assert training.get_ydata() == pytest.approx([2.0, 1.0, 0.5])
    assert validation.get_ydata() == pytest.approx([1.5, 0.8, 0.6])
    assert bound.get_ydata() == pytest.approx([0.4, 0.4])
    training, validation, held_out, baseline = errors.get_lines()
    assert training.get_ydata() == pytest.approx([60, 30, 10])
    assert validation.get_ydata() == pytest.approx([50, 25, 2])
    assert (*held_out.get_xdata(), *held_out.get_ydata()) == pytest.approx((3, 3))
    assert held_out.get_label() == "held out, after training: 3.00%"
    assert baseline.get_ydata() == pytest.approx([4, 4])
    assert baseline.get_label() == "logistic regression, held out: 4.00%"
    (rate,) = rates.get_lines()
    assert rate.get_ydata() == pytest.approx([0.1, 0.2, 0.05])
    for axis in (losses, errors):
        labels = [line.get_label() for line in axis.get_lines()]
        assert [text.get_text() for text in axis.get_legend().get_texts()] == labels
    figure.draw_without_rendering()
    for text in (figure._suptitle, figure._supxlabel):
        extent = text.get_window_extent()
        assert 0 < extent.x0 < extent.x1 < figure.bbox.x1
        assert not any(extent.overlaps(axis.get_tightbbox()) for axis in figure.axes)


@pytest.mark.parametrize("empty", ["validation", "accuracy"])
def test_columns_without_values_are_not_drawn(empty):
    log = [
        {name: math.nan if name.startswith(empty) else x for name, x in row.items()} for row in LOG
    ]
    losses, errors, _ = plot_curves(log).axes
    both = ["training", "validation"]
    labels = [[line.get_label() for line in axis.get_lines()] for axis in (losses, errors)]
    assert labels == ([both, both[1:]] if empty == "accuracy" else [both[:1], both[:1]])


@pytest.mark.parametrize("worst", [1.0, 0.85, 0.1, 0.0])
@pytest.mark.parametrize("ratio", [0.98, 0.6, 0.02])
def test_error_rates_have_several_ticks_with_plain_numbers(worst, ratio):
    accuracies = [1 - worst * ratio**e for e in (0, 1)]
    names = "accuracy", "validation_accuracy"
    log = [LOG[0] | {"epoch": e + 1, **dict.fromkeys(names, accuracies[e])} for e in (0, 1)]
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
    left, right, rates = plot_curves(log).axes
    for axis in (left, right, rates):
        for line in axis.get_lines():
            assert line.get_marker() == ("o" if n <= 10 else "None")
    assert left.get_ylim()[0] == 0
    assert left.get_ylim()[1] > 1.02 * 2.0  # the highest marker is not cut
    for axis in (left, right, rates, *plot_distances(np.ones((n, 2)), 2.0).axes):
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

    for function in (plot_maps, plot_gradients, plot_distances, plot_similarity, plot_filters):
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
    first = [9 - label for label in range(count)]
    images = dataset.held_out_images[first]
    predicted = model(images).argmax(-1)
    expected = {
        "images": images,
        "titles": [f"{'abcdefghij'[i]}, predicted {'abcdefghij'[c]}"
                   for i, c in enumerate(predicted)],
        "boxes": dataset.held_out_boxes[first] if with_boxes else None,
    }  # fmt: skip
    if kind == "maps":
        assert name == "plot_maps"
        maps = attention_maps(model, images, ["rollout", "relevance", "raw"], 1)
        expected |= {"rows": [maps], "note": "The box outlines the object.\n" * with_boxes}
    else:
        assert name == "plot_gradients"
        A, dA = attention_gradients(model, images, predicted)
        expected |= {"attention": A, "gradients": dA, "grid": (2, 3), "layer": 1}
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


def test_a_model_without_a_classifier_has_maps_but_no_gradients(recorded):
    model = make_model(classes=None)
    name, arguments = plot_model(model, "maps", make_images())
    assert name == "plot_maps"
    assert list(arguments["rows"][0]) == ["rollout", "layer 2, head 1", "layer 2, head 2"]
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


@pytest.mark.parametrize(
    ("options", "titles"),
    [
        ({"targets": [1, 3]}, [["relevance, class 1", "relevance, class 3"]]),
        ({"head": 1}, [["layer 3, head 2"]]),
        ({"methods": ["mean"]}, [["layer 3, mean"]]),
        ({"methods": ["rollout"], "layer": None},
         [["rollout, layer 1"], ["rollout, layer 2"], ["rollout, layer 3"]]),
        ({"methods": ["raw"], "layer": None, "head": 0},
         [["layer 1, head 1"], ["layer 2, head 1"], ["layer 3, head 1"]]),
    ],
)  # fmt: skip
def test_options_select_the_maps(recorded, options, titles):
    model, images = make_model(depth=3), make_images()
    _, arguments = plot_model(model, "maps", images, **options)
    assert [list(maps) for maps in arguments["rows"]] == titles
    methods = options.pop("methods", ["relevance"] if "targets" in options else ["raw"])
    layers = range(3) if "layer" in options else [-1]
    options.pop("layer", None)
    expected = [attention_maps(model, images, methods, n, **options) for n in layers]
    drawn, expected = (
        [[*maps.values()] for maps in rows] for rows in (arguments["rows"], expected)
    )
    np.testing.assert_allclose(drawn, expected)


@pytest.mark.parametrize(("heads", "rows"), [(4, [6]), (8, [5, 5]), (16, [6, 6, 6])])
def test_a_large_number_of_maps_is_arranged_in_rows(recorded, heads, rows):
    model = make_model(heads=heads, width=heads)
    _, arguments = plot_model(model, "maps", make_images())
    assert [len(maps) for maps in arguments["rows"]] == rows
    titles = [title for maps in arguments["rows"] for title in maps]
    heads = [f"layer 2, head {i + 1}" for i in range(heads)]
    assert titles == ["rollout", "relevance, predicted", *heads]


def test_a_query_is_outlined(recorded):
    model, images = make_model(image_size=(8, 12), patch_size=4), np.zeros((2, 8, 12, 1))
    _, arguments = plot_model(model, "maps", images, query=(1, 2), boxes=BOXES)
    assert arguments["boxes"].tolist() == [[4, 8, 8, 12]] * 2
    assert arguments["note"] == "The outlined patch is the query.\n"
    expected = attention_maps(model, images, ["rollout"], query=(1, 2))["rollout"]
    np.testing.assert_array_equal(arguments["rows"][0]["rollout"], expected)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_note_explains_attention_sinks(recorded, monkeypatch, count):
    sinks = np.zeros((3, 2, 3), bool)
    sinks.ravel()[[0, 1][:count]] = True  # of one image of three
    monkeypatch.setattr(plots_model, "attention_sinks", lambda A, grid: sinks)
    _, arguments = plot_model(make_model(), "maps", make_images())
    subject = ["", "1 patch receives more", "up to 2 patches receive more"][count]
    assert arguments["note"].startswith("Attention sinks: averaged over all") == bool(count)
    assert f"{subject} than 10 times the uniform weight" in arguments["note"] or not count


def test_the_gradient_is_that_of_the_target(recorded):
    model, images = make_model(), make_images()
    _, arguments = plot_model(model, "gradients", images, targets=[3])
    np.testing.assert_array_equal(
        arguments["gradients"], attention_gradients(model, images, [3, 3, 3])[1]
    )


def test_an_unknown_kind_is_rejected():
    with pytest.raises(ValueError, match="unknown kind 'map': choose maps, distance, positions"):
        plot_model(make_model(), "map", make_images())


# --- minivit.plot_attention -------------------------------------------------------------------


def test_plot_attention_reads_an_image_and_compares_targets(recorded, tmp_path):
    model = make_model(channels=3, preprocessing="dino", image_size=(8, 12))
    model.class_names = ["ant", "bee", "cat", "dog", "eel"]
    pixels = np.random.default_rng(3).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path := tmp_path / "photo.png")
    images = data.read_image(path, (8, 12), 3, "dino")[None]
    calls = []
    plots_model.plot_maps = lambda *arguments: calls.append(arguments) or Figure()
    for image in (path, str(path), images, images[0]):
        minivit.plot_attention(model, image, target="cat", layer=0)
    minivit.plot_attention(model, path, "relevance", target=["bee", 4], head=1, query=(0, 1))
    minivit.plot_attention(model, path, "raw", layer=None)
    minivit.plot_attention(model, path, fusion="max", discard=0.5)
    shown, rows, titles, *_ = zip(*calls, strict=True)
    expected = [
        [["rollout, layer 1", "relevance, cat, layer 1"]] * 4,
        [["relevance, bee, head 2", "relevance, eel, head 2"]],
        [["layer 1, head 1", "layer 1, head 2"], ["layer 2, head 1", "layer 2, head 2"]],
        [["rollout"]],
    ]
    assert [list(maps) for row in rows for maps in row] == list(itertools.chain(*expected))
    for pixels in shown:
        np.testing.assert_array_equal(pixels, shown[0])
    predicted = model.class_names[model(images)[0].argmax()]
    assert set(map(tuple, titles)) == {(f"predicted: {predicted}",)}
    rollout = attention_maps(model, images, fusion="max", discard=0.5)
    np.testing.assert_array_equal(rows[-1][0]["rollout"], rollout["rollout"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grey", [True, False])
def test_pillow_images_and_bytes_are_preprocessed_like_files(tmp_path, channels, grey):
    model = make_model(channels=channels, image_size=(8, 12))
    shape = (20, 30) if grey else (20, 30, 3)
    pixels = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(path := tmp_path / "photo.png")
    expected = plots_model.prepare_image(model, path)
    for image in (picture, pixels, pixels[..., None] if grey else pixels):
        np.testing.assert_array_equal(plots_model.prepare_image(model, image), expected)


@pytest.mark.parametrize("target", [np.int64(3), 3, "3", [3], np.array([3]), (np.int32(3),)])
def test_a_target_may_be_a_number_of_any_type(target):
    figure = minivit.plot_attention(make_model(), make_images(1), "relevance", target=target)
    assert figure.axes[1].get_title() == "relevance, class 3"


def test_plot_attention_names_wrong_arguments():
    model, images = make_model(), make_images()
    for wrong in ("vit.npz", None):
        with pytest.raises(TypeError, match="model must be a ViT, not "):
            minivit.plot_attention(wrong, images)
    for arguments, message in (
        ({"method": ["raw", "mean"]}, "unknown method"),
        ({"target": 1.5}, r"there is no class '1\.5'"),
        ({"method": "flow"}, "unknown method 'flow'"),
        ({"target": "cat"}, "there is no class 'cat'"),
        ({"layer": 9}, "layer must be -2 to 1, not 9"),
    ):
        with pytest.raises(ValueError, match=message):
            minivit.plot_attention(model, images, **arguments)
    with pytest.raises(FileNotFoundError, match=r"no file none\.png"):
        minivit.plot_attention(model, "none.png")


def test_a_figure_is_displayed_by_notebooks_without_pyplot(monkeypatch):
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "module://matplotlib_inline.x")
    figure = minivit.plot_attention(make_model(), make_images(1))
    assert figure.canvas.manager is None
    image = Image.open(io.BytesIO(figure._repr_png_()))
    assert image.format == "PNG"
    assert image.size == tuple((figure.get_size_inches() * plots_figure.DPI).astype(int))
    assert plt.get_fignums() == []


def test_pyplot_saves_the_figure_of_a_script(tmp_path):
    minivit.plot_attention(make_model(), make_images(1))  # with the backend Agg
    plt.savefig(tmp_path / "map.png")
    assert len(np.unique(np.asarray(Image.open(tmp_path / "map.png")))) > 50


@pytest.mark.parametrize("session", [True, False])
def test_pyplot_manages_figures_if_its_backend_has_windows(monkeypatch, session):
    shown = []
    manager = SimpleNamespace()

    def create(FigureClass, **settings):
        figure = FigureClass(**settings)
        figure.canvas.manager = manager
        figure.show = lambda: shown.append(figure)
        return figure

    monkeypatch.setattr(plt, "figure", create)
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "TkAgg")
    if session:
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    figure = minivit.plot_attention(make_model(), make_images(1))
    assert shown == [figure]
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "module://matplotlib_inline")
    assert minivit.plot_attention(make_model(), make_images(1)).canvas.manager is None
    assert len(shown) == 1


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


SIGNATURES = {
    "png": b"\x89PNG\r\n", "SVG": b"<?xml", "pdf": b"%PDF", "jpg": b"\xff\xd8\xff",
    "jpeg": b"\xff\xd8\xff",
}  # fmt: skip


@pytest.mark.parametrize("name", all_figures())
@pytest.mark.parametrize("suffix", SIGNATURES)
def test_the_same_figure_is_the_same_bytes(name, suffix, tmp_path):
    if name not in ("maps", "distance") and suffix != "png":
        return
    plot, contents = all_figures()[name], []
    for path in (f"first.{suffix}", f"second.{suffix}"):
        save_figure(plot(), tmp_path / path)
        contents.append((tmp_path / path).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(SIGNATURES[suffix])
    version = matplotlib.__version__.encode()  # it changes with updates
    assert version not in contents[0].replace(b'xmlns:xlink="http://www.w3.org/1999/xlink"', b"")
    assert len(contents[0]) > 5000


def test_an_unknown_suffix_is_rejected(tmp_path):
    for name in ("figure", "figure.gif", "figure.npz"):
        with pytest.raises(ValueError, match=r"the suffix must be \.png, \.svg, \.pdf, \.jpg, "):
            save_figure(Figure(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


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
