"""Scattered digits: the digit is where its box says, and the rest is scraps of others."""

import numpy as np
import pytest

from minivit import ViT, ViTConfig
from minivit.analysis import localisation_scores
from minivit.data import SCATTERED_MODEL, load_digits, load_scattered
from minivit.data.scattered import make_scenes
from minivit.training import evaluate, fit_logistic_regression
from minivit.training.presets import PRESETS


@pytest.fixture(scope="module")
def d():
    return load_scattered(n=300, held_out=200, seed=5)


def cut_out(image, box):
    top, left, bottom, right = box
    return image[top:bottom, left:right]


def test_shapes_and_kinds(d):
    assert d.name == "scattered digits"
    assert d.images.shape == (300, 24, 24, 1)
    assert d.held_out_images.shape == (200, 24, 24, 1)
    assert (d.boxes.shape, d.held_out_boxes.shape) == ((300, 4), (200, 4))
    assert (d.images.dtype, d.labels.dtype) == (np.float32, np.int64)
    assert d.images.min() == -1
    assert d.images.max() == 1


def test_in_every_box_lies_a_whole_digit_of_its_own_part_and_class(d):
    plain = load_digits()
    parts = [
        (d.images, d.labels, d.boxes, plain.images, plain.labels),
        (d.held_out_images, d.held_out_labels, d.held_out_boxes,
         plain.held_out_images, plain.held_out_labels),
    ]  # fmt: skip
    for images, labels, boxes, sources, classes in parts:
        class_of = {image.tobytes(): c for image, c in zip(sources, classes, strict=True)}
        found = [class_of[cut_out(*pair).tobytes()] for pair in zip(images, boxes, strict=True)]
        assert found == labels.tolist()


def test_digits_lie_anywhere(d):
    assert np.unique(d.boxes[:, 0]).tolist() == list(range(17))
    assert np.unique(d.boxes[:, 1]).tolist() == list(range(17))
    assert (d.boxes[:, 2:] - d.boxes[:, :2] == 8).all()
    assert abs(np.corrcoef(d.boxes[:, 0], d.boxes[:, 1])[0, 1]) < 0.2


def test_outside_the_box_lie_squares_out_of_digits():
    plain = load_digits()
    images, _, boxes = make_scenes(
        plain.images[:1], plain.labels[:1], 40, 24, 1, 4, np.random.default_rng(0)
    )
    digit = plain.images[0]
    windows = {digit[i : i + 4, j : j + 4].tobytes() for i in range(5) for j in range(5)}
    whole = 0
    for image, box in zip(images, boxes, strict=True):
        outside = image.copy()
        cut_out(outside, box)[:] = -1
        places = [(i, j) for i in range(21) for j in range(21)]
        whole += any(outside[i : i + 4, j : j + 4].tobytes() in windows for i, j in places)
        assert (outside > -1).sum() <= 16
    assert whole > 20  # in the others the digit covers a part of the scrap


def test_without_scraps_there_is_the_digit_alone():
    d = load_scattered(n=20, held_out=1, scraps=0)
    for image, box in zip(d.images, d.boxes, strict=True):
        cut_out(image, box)[:] = -1
        assert (image == -1).all()


def test_scraps_put_ink_outside_the_box():
    d = load_scattered(n=50, held_out=1, scraps=6)
    for image, box in zip(d.images, d.boxes, strict=True):
        cut_out(image, box)[:] = -1
        assert (image > -1).any()


def test_the_seed_decides_everything_and_n_nothing_of_what_is_held_out():
    one, same, other = (load_scattered(n=30, held_out=30, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one[1:5], same[1:5], strict=True))
    assert not np.array_equal(one.held_out_images, other.held_out_images)
    more = load_scattered(n=31, held_out=30, seed=0)
    assert np.array_equal(one.held_out_images, more.held_out_images)
    assert not np.array_equal(one.boxes, one.held_out_boxes)


@pytest.mark.parametrize("fields", [{"size": 7}, {"scrap_size": 9}, {"scrap_size": 0}])
def test_what_does_not_fit_is_refused(fields):
    with pytest.raises(ValueError, match="must fit into"):
        load_scattered(n=1, held_out=1, **fields)


def test_a_linear_model_stays_near_chance():
    """One weight for each pixel cannot look for the digit first."""
    assert 0.05 < fit_logistic_regression(load_scattered(n=3000, held_out=1000), steps=100) < 0.25


# The checkpoint that comes with the package


@pytest.fixture(scope="module")
def shipped():
    return ViT.load(SCATTERED_MODEL), load_scattered(n=1)


def test_the_shipped_model_finds_and_names_the_digit(shipped):
    model, d = shipped
    assert evaluate(model, d.held_out_images, d.held_out_labels).accuracy >= 0.85


def test_its_maps_lie_on_the_digit_at_twice_the_share_of_chance(shipped):
    model, d = shipped
    shares = localisation_scores(model, d.held_out_images[:500], d.held_out_boxes[:500])
    assert shares["chance"] == pytest.approx(64 / 576)
    assert shares["rollout"] > 2 * shares["chance"]
    assert shares["gradient-weighted"] > 3 * shares["chance"]


def test_an_untrained_model_s_maps_lie_anywhere(shipped):
    model, d = shipped
    fresh = ViT.create(model.config, seed=0)
    fresh.params["head"] = model.params["head"]
    shares = localisation_scores(fresh, d.held_out_images[:200], d.held_out_boxes[:200])
    assert shares["rollout"] < 1.5 * shares["chance"]


def test_it_is_of_the_model_that_the_command_makes_and_small(shipped):
    model, _ = shipped
    assert model.config == ViTConfig(**PRESETS["scattered"][0])
    assert SCATTERED_MODEL.stat().st_size < 1_000_000
