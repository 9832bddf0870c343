"""Attention maps, rollout, and the figures."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from minivit.analysis import patch_maps, plot_attention, plot_curves, plots, rollout
from minivit.layers import softmax


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
    flow = patch_maps(rollout(uniform), (2, 3))
    np.testing.assert_allclose(flow, flow[0, 0, 0], rtol=1e-14)


@pytest.mark.parametrize("T", [1, 5, 8, 12])
def test_tokens_that_do_not_fit_the_grid_are_refused(T):
    with pytest.raises(ValueError, match=f"{T} tokens do not fit a grid of 2 x 3 patches"):
        patch_maps(random_attention(T, T), (2, 3))


# --- rollout ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_rows_of_a_rollout_sum_to_one(layers, dtype):
    flow = rollout(random_attention(layers, 3, 2, 7, 7, dtype=dtype))
    assert flow.shape == (3, 7, 7)
    assert flow.dtype == dtype
    assert (flow >= 0).all()
    np.testing.assert_allclose(flow.sum(-1), 1, rtol=1e-6)


def test_attention_to_oneself_stays_where_it_is():
    A = np.broadcast_to(np.eye(7), (4, 3, 2, 7, 7))
    np.testing.assert_array_equal(rollout(A), np.broadcast_to(np.eye(7), (3, 7, 7)))


def test_half_of_each_token_passes_through_the_residual_connection():
    A = np.zeros((1, 1, 1, 2, 2))
    A[..., 1] = 1  # everyone looks at the second token
    assert rollout(A)[0].tolist() == [[0.5, 0.5], [0, 1]]


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
    np.testing.assert_allclose(rollout(attention)[0], expected, rtol=1e-13)
    assert abs(np.array(expected) - swapped).max() > 1e-3  # the order does matter here


def test_a_chain_of_looks_is_followed_back_to_its_start():
    A = np.zeros((2, 1, 1, 3, 3))
    A[0, 0, 0] = [[1, 0, 0], [0, 0, 1], [0, 0, 1]]  # first, token 1 takes from token 2
    A[1, 0, 0] = [[0, 1, 0], [0, 1, 0], [0, 0, 1]]  # then, token 0 takes from token 1
    assert rollout(A)[0, 0].tolist() == [0.5, 0.25, 0.25]


def test_the_images_of_a_batch_do_not_meet():
    attention = random_attention(3, 4, 2, 5, 5)
    alone = [rollout(attention[:, b : b + 1])[0] for b in range(4)]
    np.testing.assert_allclose(rollout(attention), alone, rtol=1e-13)


# --- the figures -----------------------------------------------------------------------------

LOG = [
    {"epoch": 1, "loss": 2.0, "held_out_loss": 1.5, "held_out_accuracy": 0.50},
    {"epoch": 2, "loss": 1.0, "held_out_loss": 0.8, "held_out_accuracy": 0.75},
    {"epoch": 3, "loss": 0.5, "held_out_loss": 0.6, "held_out_accuracy": 0.98},
]


@pytest.fixture
def figure(monkeypatch):
    """The figure that the next plot would write, still open: a list of one."""
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda one, path: figures.append(one))
    yield figures
    for one in figures:
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
    flow, heads = patch_maps(rollout(attention), (2, 3)), patch_maps(attention[layer], (2, 3))
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


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_curves_of_one_epoch_can_be_drawn_however_good_it_was(tmp_path, accuracy):
    plot_curves([LOG[0] | {"held_out_accuracy": accuracy}], tmp_path / "curves.png", 0.96)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def attention_figure(path):
    plot_attention(*images_and_attention(), (2, 3), path, ["a seven", "a one"])


def curves_figure(path):
    plot_curves(LOG, path, 0.96)


@pytest.mark.parametrize("draw", [attention_figure, curves_figure])
def test_the_same_figure_is_the_same_bytes(draw, tmp_path):
    for name in ("first.png", "second.png"):
        draw(tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("first.png", "second.png"))
    assert first == second
    assert first.startswith(b"\x89PNG\r\n")
    assert b"matplotlib" not in first.lower()  # a version would be another byte next year


@pytest.mark.parametrize("draw", [attention_figure, curves_figure])
def test_a_figure_that_cannot_be_written_names_its_place_and_is_closed(draw, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        draw(tmp_path / "nowhere" / "figure.png")
    assert error.value.filename == str(tmp_path / "nowhere" / "figure.png")
    assert plt.get_fignums() == []
