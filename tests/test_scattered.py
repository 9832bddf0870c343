"""The scattered digits: images, labels and boxes, and the bundled model."""

import numpy as np
import pytest

from minivit import ViT, ViTConfig
from minivit.analysis import localisation_scores
from minivit.data import SCATTERED_MODEL, load_digits, load_scattered
from minivit.data.scattered import make_scenes
from minivit.training import evaluate, fit_logistic_regression, get_preset


@pytest.fixture(scope="module")
def d():
    return load_scattered(n=300, held_out=200, seed=5)


def crop(image, box):
    top, left, bottom, right = box
    return image[top:bottom, left:right]


def test_shapes_dtypes_and_range(d):
    assert d.name == "scattered digits"
    assert d.images.shape == (300, 24, 24, 1)
    assert d.held_out_images.shape == (200, 24, 24, 1)
    assert (d.boxes.shape, d.held_out_boxes.shape) == ((300, 4), (200, 4))
    assert (d.images.dtype, d.labels.dtype) == (np.float32, np.int64)
    assert (d.images.min(), d.images.max()) == (-1, 1)


def test_every_box_contains_a_digit_of_the_labelled_class_from_the_same_split(d):
    digits = load_digits()
    for part in ("", "held_out_"):
        images, labels, boxes = (getattr(d, part + f) for f in ("images", "labels", "boxes"))
        sources, classes = getattr(digits, part + "images"), getattr(digits, part + "labels")
        class_of = {image.tobytes(): c for image, c in zip(sources, classes, strict=True)}
        cropped = [crop(*pair).tobytes() for pair in zip(images, boxes, strict=True)]
        assert [class_of[digit] for digit in cropped] == labels.tolist()


def test_digits_are_at_every_position(d):
    for corner in d.boxes[:, :2].T:
        assert np.unique(corner).tolist() == list(range(17))
    assert abs(np.corrcoef(d.boxes[:, 0], d.boxes[:, 1])[0, 1]) < 0.2


def test_squares_cut_out_of_digits_are_outside_the_box():
    digits = load_digits()
    images, _, boxes = make_scenes(digits.images[:1], digits.labels[:1], 40, (24, 1, 4), [0])
    digit = digits.images[0]
    windows = {digit[i : i + 4, j : j + 4].tobytes() for i in range(5) for j in range(5)}
    complete = 0  # squares that the digit does not cover
    for image, box in zip(images, boxes, strict=True):
        crop(image, box)[:] = -1
        corners = [(i, j) for i in range(21) for j in range(21)]
        complete += any(image[i : i + 4, j : j + 4].tobytes() in windows for i, j in corners)
        assert (image > -1).sum() <= 16
    assert complete > 20


@pytest.mark.parametrize("scraps", [0, 6])
def test_only_scraps_put_ink_outside_the_box(scraps):
    d = load_scattered(n=50, held_out=1, scraps=scraps)
    for image, box in zip(d.images, d.boxes, strict=True):
        crop(image, box)[:] = -1
        assert (image > -1).any() == bool(scraps)


def test_the_seed_determines_all_images_and_n_does_not_affect_the_held_out_images():
    d, same, other = (load_scattered(n=30, held_out=30, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(d[1:5], same[1:5], strict=True))
    assert not np.array_equal(d.held_out_images, other.held_out_images)
    larger = load_scattered(n=31, held_out=30, seed=0)
    assert np.array_equal(d.held_out_images, larger.held_out_images)
    assert not np.array_equal(d.boxes, d.held_out_boxes)


@pytest.mark.parametrize("fields", [{"size": 7}, {"scrap_size": 9}, {"scrap_size": 0}])
def test_invalid_sizes_are_rejected(fields):
    with pytest.raises(ValueError, match="must fit into"):
        load_scattered(n=1, held_out=1, **fields)


def test_the_accuracy_of_a_linear_model_is_near_chance():
    assert 0.05 < fit_logistic_regression(load_scattered(n=3000, held_out=1000), steps=100) < 0.25


# --- the bundled model -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled():
    return ViT.load(SCATTERED_MODEL), load_scattered(n=1)


def test_the_bundled_model_is_accurate_and_small_and_has_the_default_configuration(bundled):
    model, d = bundled
    assert evaluate(model, d.held_out_images, d.held_out_labels).accuracy >= 0.85
    assert model.config == ViTConfig(**get_preset("scattered").model)
    assert SCATTERED_MODEL.stat().st_size < 1_000_000


def test_the_bundled_model_attends_to_the_digit_and_an_untrained_model_does_not(bundled):
    model, d = bundled
    scores = localisation_scores(model, d.held_out_images[:500], d.held_out_boxes[:500])
    assert scores["chance"] == pytest.approx(64 / 576)
    assert scores["rollout"] > 2 * scores["chance"]
    assert scores["gradient-weighted"] > 3 * scores["chance"]
    untrained = ViT.create(model.config, seed=0)
    untrained.params["head"] = model.params["head"]
    scores = localisation_scores(untrained, d.held_out_images[:200], d.held_out_boxes[:200])
    assert scores["rollout"] < 1.5 * scores["chance"]
