"""Grids of another size: each method against numbers, against its own definition, and positions."""

import numpy as np
import pytest
from helpers.on_device import xp

from minivit.data.resampling import RESAMPLING_METHODS, resample, resampling_matrix
from minivit.weights.positions import resize_positions

SIZES = [(1, 1), (1, 5), (2, 3), (3, 2), (5, 1), (7, 12), (14, 24), (24, 14), (37, 16), (6, 12)]


def draw(*shape):
    return np.random.default_rng(7).normal(size=shape)


def close(a, b, tolerance=1e-14):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


# --- one axis --------------------------------------------------------------------------------

# The first rows, as PyTorch 2.13 has them: `interpolate` in float64, "bilinear" with corners
# aligned and not, "bicubic" without and with `antialias`; "area" is arithmetic.
FIRST_ROWS = {
    ("aligned", 4, 3): [[1, 0, 0, 0], [0, 0.5, 0.5, 0]],
    ("aligned", 2, 4): [[1, 0], [2 / 3, 1 / 3]],
    ("aligned", 5, 2): [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]],
    ("aligned", 3, 1): [[1, 0, 0]],
    ("bilinear", 4, 3): [[5 / 6, 1 / 6, 0, 0], [0, 0.5, 0.5, 0]],
    ("bilinear", 2, 4): [[1, 0], [0.75, 0.25]],
    ("bilinear", 5, 2): [[0.25, 0.75, 0, 0, 0], [0, 0, 0, 0.75, 0.25]],
    ("bilinear", 3, 1): [[0, 1, 0]],
    ("bicubic", 3, 4): [
        [1.07177734375, -0.07177734375, 0], [0.3603515625, 0.74951171875, -0.10986328125]
    ],
    ("bicubic", 4, 2): [[0.5, 0.59375, -0.09375, 0]],
    ("antialiased", 3, 4): [
        [1.05223880597, -0.05223880597, 0], [0.373246024322, 0.696913002806, -0.070159027128]
    ],
    ("antialiased", 4, 2): [[0.45867768595, 0.45867768595, 0.119834710744, -0.037190082645]],
    ("area", 6, 2): [[1 / 3, 1 / 3, 1 / 3, 0, 0, 0]],
    ("area", 5, 2): [[0.4, 0.4, 0.2, 0, 0], [0, 0, 0.2, 0.4, 0.4]],
    ("area", 2, 3): [[1, 0], [0.5, 0.5]],
}  # fmt: skip


@pytest.mark.parametrize(("method", "old", "new"), FIRST_ROWS)
def test_the_weights_are_those_of_pytorch(method, old, new):
    expected = FIRST_ROWS[method, old, new]
    found = resampling_matrix(old, new, method)
    assert found.shape == (new, old)
    assert found.dtype == np.float64
    close(found[: len(expected)], expected, 1e-12)


@pytest.mark.parametrize("method", RESAMPLING_METHODS)
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_what_is_constant_stays_constant(method, old, new):
    close(resampling_matrix(old, new, method).sum(1), np.ones(new))


@pytest.mark.parametrize("method", RESAMPLING_METHODS)
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_neither_end_is_special(method, old, new):
    if method == "aligned" and new == 1:
        pytest.skip("a single point lies on the first corner, as in the authors' code")
    matrix = resampling_matrix(old, new, method)
    close(matrix, matrix[::-1, ::-1])


@pytest.mark.parametrize("method", RESAMPLING_METHODS)
@pytest.mark.parametrize("n", [1, 2, 5, 14])
def test_the_same_size_changes_nothing(method, n):
    close(resampling_matrix(n, n, method), np.eye(n))


@pytest.mark.parametrize(("old", "new"), [(3, 5), (14, 24), (24, 14), (37, 16)])
def test_a_straight_line_tells_where_each_point_was_read(old, new):
    line = np.arange(old) + 0.0
    close(resampling_matrix(old, new, "aligned") @ line, np.linspace(0, old - 1, new), 1e-13)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    close(resampling_matrix(old, new, "bilinear") @ line, centres.clip(0, old - 1), 1e-13)


def test_a_cubic_with_a_slope_of_one_half_keeps_parabolas_and_the_other_bends_lines():
    line = np.arange(14.0)
    centres = (np.arange(24) + 0.5) * 14 / 24 - 0.5
    inside = (centres > 1) & (centres < 12)
    curve = resampling_matrix(14, 24, "antialiased") @ line**2
    close(curve[inside], centres[inside] ** 2, 1e-12)
    bent = resampling_matrix(14, 24, "bicubic") @ line
    assert 0.04 < abs(bent - centres)[inside].max() < 0.05


def test_only_what_widens_reads_every_point_when_shrinking():
    def unread(method):
        return int((resampling_matrix(48, 8, method) == 0).all(0).sum())

    assert [unread(method) for method in RESAMPLING_METHODS] == [34, 32, 16, 0, 0]


def test_the_area_is_the_mean_of_what_lies_under_it():
    x = draw(7)
    fine = np.repeat(x, 3)  # 21 thirds of a point
    close(resampling_matrix(7, 3, "area") @ x, fine.reshape(3, 7).mean(1))


@pytest.mark.parametrize(("old", "new"), [(0, 3), (3, 0), (-1, 2)])
def test_no_points_cannot_be_resampled(old, new):
    with pytest.raises(ValueError, match=f"{old} points cannot become {new}"):
        resampling_matrix(old, new, "bilinear")


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'nearest' of resampling: choose aligned, bilinear, bi"):
        resampling_matrix(3, 4, "nearest")


# --- two axes --------------------------------------------------------------------------------


def test_the_four_corners_become_nine_and_sixteen():
    square = np.array([[0.0, 1.0], [2.0, 3.0]])[..., None]
    nine = [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]]
    close(resample(square, (3, 3), "aligned")[..., 0], nine)
    close(resample(square, (4, 4), "aligned")[0, :, 0], [0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("method", RESAMPLING_METHODS)
def test_rows_and_columns_are_resampled_apart(method):
    x = draw(2, 3, 7, 9, 4)
    rows, columns = resampling_matrix(7, 5, method), resampling_matrix(9, 12, method)
    expected = np.einsum("hH,wW,...HWC->...hwC", rows, columns, x)
    close(resample(x, (5, 12), method), expected, 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_the_dtype_is_kept(dtype):
    x = draw(4, 6, 2).astype(dtype)
    result = resample(x, (7, 3), "antialiased")
    assert result.dtype == dtype
    close(result, resample(draw(4, 6, 2), (7, 3), "antialiased"), 1e-6)


@pytest.mark.parametrize("method", RESAMPLING_METHODS)
def test_it_runs_where_other_arrays_live(method):
    x = draw(2, 4, 6, 3).astype("float32")
    moved = resample(xp.asarray(x), (5, 3), method)
    assert np.array_equal(moved.get(), resample(x, (5, 3), method))


# --- positions -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", RESAMPLING_METHODS)
def test_the_patches_are_resized_and_the_class_token_stays(method):
    table = draw(1 + 4 * 6, 5).astype("float32")
    resized = resize_positions(table, (4, 6), (7, 3), method)
    assert resized.shape == (1 + 7 * 3, 5)
    assert resized.dtype == np.float32
    assert np.array_equal(resized[0], table[0])
    grid = table[1:].reshape(4, 6, 5).astype("float64")
    close(resized[1:].reshape(7, 3, 5), resample(grid, (7, 3), method), 1e-6)
    assert np.array_equal(resize_positions(table[1:], (4, 6), (7, 3), method), resized[1:])


def test_positions_are_resized_as_the_authors_do_unless_told_otherwise():
    table = draw(10, 4)
    expected = resize_positions(table, (3, 3), (5, 5), "aligned")
    assert np.array_equal(resize_positions(table, (3, 3), (5, 5)), expected)
    corners = [0, 4, 20, 24]
    close(expected[1:][corners], table[1:][[0, 2, 6, 8]])  # the corners stay corners
    moved = resize_positions(table, (3, 3), (5, 5), "bilinear")
    assert abs(moved - expected).max() > 0.1


@pytest.mark.parametrize("method", RESAMPLING_METHODS)
def test_the_same_grid_keeps_every_bit(method):
    table = draw(17, 4).astype("float32")
    assert np.array_equal(resize_positions(table, (4, 4), (4, 4), method), table)


def test_the_same_count_on_another_grid_is_resized_too():
    table = draw(13, 2)
    assert abs(resize_positions(table, (2, 6), (3, 4)) - table).max() > 0.1


def test_a_table_on_a_gpu_stays_there():
    table = draw(17, 4).astype("float32")
    moved = resize_positions(xp.asarray(table), (4, 4), (3, 5))
    assert np.array_equal(moved.get(), resize_positions(table, (4, 4), (3, 5)))


def test_a_table_that_does_not_fit_its_grid_is_refused():
    with pytest.raises(ValueError, match="15 positions do not fit a grid of 4 x 4 patches"):
        resize_positions(draw(15, 2), (4, 4), (5, 5))
