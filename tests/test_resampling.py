"""Resampling methods, compared with PyTorch and with their definitions; position embeddings."""

import numpy as np
import pytest
from helpers.on_device import xp

from minivit.data.resampling import RESAMPLING_METHODS, resample, resampling_matrix
from minivit.weights.positions import resize_positions

SIZES = [(1, 1), (1, 5), (2, 3), (3, 2), (5, 1), (7, 12), (14, 24), (24, 14), (37, 16), (6, 12)]
methods = pytest.mark.parametrize("method", RESAMPLING_METHODS)


def draw(*shape):
    return np.random.default_rng(7).normal(size=shape)


def close(a, b, tolerance=1e-14):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


# --- one axis --------------------------------------------------------------------------------

# The first rows of the matrices of PyTorch 2.13's `interpolate` in float64: "bilinear" with and
# without `align_corners`, "bicubic" without and with `antialias`. "area" is computed by hand.
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
def test_the_weights_match_pytorch(method, old, new):
    expected = FIRST_ROWS[method, old, new]
    matrix = resampling_matrix(old, new, method)
    assert (matrix.shape, matrix.dtype) == ((new, old), np.float64)
    close(matrix[: len(expected)], expected, 1e-12)


@methods
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_rows_sum_to_one_and_the_matrix_is_symmetric_under_reflection(method, old, new):
    matrix = resampling_matrix(old, new, method)
    close(matrix.sum(1), np.ones(new))
    if method != "aligned" or new > 1:  # a single aligned point is the first corner
        close(matrix, matrix[::-1, ::-1])


@methods
@pytest.mark.parametrize("n", [1, 2, 5, 14])
def test_the_matrix_for_an_unchanged_size_is_the_identity(method, n):
    close(resampling_matrix(n, n, method), np.eye(n))


@pytest.mark.parametrize(("old", "new"), [(3, 5), (14, 24), (24, 14), (37, 16)])
def test_linear_methods_reproduce_a_line(old, new):
    line = np.arange(old) + 0.0
    close(resampling_matrix(old, new, "aligned") @ line, np.linspace(0, old - 1, new), 1e-13)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    close(resampling_matrix(old, new, "bilinear") @ line, centres.clip(0, old - 1), 1e-13)


def test_antialiased_reproduces_parabolas_and_bicubic_does_not_reproduce_lines():
    line = np.arange(14.0)
    centres = (np.arange(24) + 0.5) * 14 / 24 - 0.5
    inside = (centres > 1) & (centres < 12)
    parabola = resampling_matrix(14, 24, "antialiased") @ line**2
    close(parabola[inside], centres[inside] ** 2, 1e-12)
    curve = resampling_matrix(14, 24, "bicubic") @ line
    assert 0.04 < abs(curve - centres)[inside].max() < 0.05


def test_only_antialiased_and_area_use_every_point_when_shrinking():
    unused = [(resampling_matrix(48, 8, m) == 0).all(0).sum() for m in RESAMPLING_METHODS]
    assert unused == [34, 32, 16, 0, 0]


@pytest.mark.parametrize(
    ("old", "new", "method", "message"),
    [
        (0, 3, "bilinear", "cannot resample 0 points to 3: both must be at least 1"),
        (3, 0, "area", "cannot resample 3 points to 0"),
        (-1, 2, "aligned", "cannot resample -1 points to 2"),
        (3, 4, "nearest", "unknown resampling method 'nearest': choose aligned, bilinear, bicubic"),
    ],
)
def test_invalid_arguments_are_rejected(old, new, method, message):
    with pytest.raises(ValueError, match=message):
        resampling_matrix(old, new, method)


# --- two axes --------------------------------------------------------------------------------


@methods
def test_resampling_is_separable_and_preserves_the_dtype_and_the_device(method):
    x = draw(2, 3, 7, 9, 4)
    rows, columns = resampling_matrix(7, 5, method), resampling_matrix(9, 12, method)
    expected = np.einsum("hH,wW,...HWC->...hwC", rows, columns, x)
    close(resample(x, (5, 12), method), expected, 1e-13)
    for dtype in ("float32", "float64", "complex128"):
        result = resample(x.astype(dtype), (5, 12), method)
        assert result.dtype == dtype
        close(result, expected, 1e-6)
        on_device = resample(xp.asarray(x.astype(dtype)), (5, 12), method)
        assert np.array_equal(on_device.get(), result)


# --- position embeddings ---------------------------------------------------------------------


@methods
def test_patch_positions_are_resized_and_the_class_token_is_kept(method):
    table = draw(1 + 4 * 6, 5).astype("float32")
    resized = resize_positions(table, (4, 6), (7, 3), method)
    assert (resized.shape, resized.dtype) == ((1 + 7 * 3, 5), np.float32)
    assert np.array_equal(resized[0], table[0])
    grid = table[1:].reshape(4, 6, 5).astype("float64")
    close(resized[1:].reshape(7, 3, 5), resample(grid, (7, 3), method), 1e-6)
    assert np.array_equal(resize_positions(table[1:], (4, 6), (7, 3), method), resized[1:])
    assert np.array_equal(resize_positions(table, (4, 6), (4, 6), method), table)
    on_device = resize_positions(xp.asarray(table), (4, 6), (7, 3), method)
    assert np.array_equal(on_device.get(), resized)


def test_positions_are_aligned_by_default():
    table = draw(10, 4)
    resized = resize_positions(table, (3, 3), (5, 5))
    assert np.array_equal(resize_positions(table, (3, 3), (5, 5), "aligned"), resized)
    close(resized[1:][[0, 4, 20, 24]], table[1:][[0, 2, 6, 8]])  # the corners are unchanged
    assert abs(resize_positions(table, (3, 3), (5, 5), "bilinear") - resized).max() > 0.1


def test_another_number_of_positions_than_patches_is_rejected():
    with pytest.raises(ValueError, match="15 positions do not fit a grid of 4 x 4 patches"):
        resize_positions(draw(15, 2), (4, 4), (5, 5))
