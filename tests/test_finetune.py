"""Fine-tuning: a new head, a frozen body, and resized images."""

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest
from helpers.models import copy_leaves, few_digits, random_batch, same_bits, tiny_model

from minivit import ViT, data, flatten
from minivit.analysis.localisation import box_area_fraction
from minivit.data import Dataset, get_preprocessing, resize_dataset
from minivit.data.resampling import resample
from minivit.models import initialise
from minivit.training import (
    FINE_TUNING,
    StepOptions,
    evaluate,
    loss_and_gradients,
    replace_head,
    step,
    train,
)
from minivit.training.evaluate import BATCH_SIZE, predict_batches

DIGITS = few_digits()
FREEZE = StepOptions(freeze=True)


def make_recipe(**fields):
    fields = {"epochs": 4, "batch_size": 20, "learning_rate": 0.1, "seed": 3, "shards": 3} | fields
    return dataclasses.replace(FINE_TUNING, **fields)


BODIES = {
    "a linear head": {},
    "a hidden layer": {"hidden_head": 5},
    "a hidden layer, no classes": {"hidden_head": 5, "classes": None},
    "no classes": {"classes": None},
    "mean pooling, no biases": {"pooling": "mean", "qkv_bias": False, "positions": "2d"},
    "dropout": {"dropout": 0.1, "drop_path": 0.1},
}


@pytest.mark.parametrize("fields", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_new_model_has_the_same_body_and_a_linear_head_of_zeros(fields, dtype):
    old = tiny_model(dtype, **fields)
    new = replace_head(old, classes=4)
    expected = dataclasses.replace(old.config, classes=4, hidden_head=None)
    assert new.config == dataclasses.replace(expected, dropout=0.0, drop_path=0.0)
    rates = {"dropout": 0.25, "drop_path": 0.5}
    assert replace_head(old, 4, **rates).config == dataclasses.replace(expected, **rates)
    assert new.params.keys() == initialise(new.config).keys()
    head = new.params.pop("head")
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in head.items()} == {
        "kernel": ((8, 4), dtype),
        "bias": ((4,), dtype),
    }
    assert not any(leaf.any() for leaf in head.values())
    before = flatten(old.params)
    assert all(leaf is before[name] for name, leaf in flatten(new.params).items())


@pytest.mark.parametrize("fields", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("classes", [2, 7, 1000])
def test_the_first_loss_is_the_logarithm_of_the_number_of_classes(fields, classes):
    model, batch = replace_head(tiny_model(**fields), classes), random_batch(8, classes=classes)
    loss, gradients = loss_and_gradients(model, *batch, StepOptions(shards=1))
    assert loss == math.log(classes)
    assert loss_and_gradients(model, *batch, StepOptions(shards=1, freeze=True))[0] == loss
    # Behind a kernel of zeros, only the head receives a gradient.
    nonzero = {name for name, gradient in flatten(gradients).items() if gradient.any()}
    assert nonzero == {"head/kernel", "head/bias"}


def test_training_the_new_model_does_not_change_the_old_one(tmp_path):
    old = tiny_model("float32")
    before, new = copy_leaves(old.params), replace_head(old, 10)
    train(new, DIGITS, make_recipe(epochs=2), tmp_path)
    assert same_bits(old.params, before)
    trained = new.params["patch_embedding"]["kernel"]
    assert not np.array_equal(trained, before["patch_embedding/kernel"])


@pytest.mark.parametrize("classes", [0, -1, 2.0])
def test_an_invalid_number_of_classes_is_rejected(classes):
    with pytest.raises(ValueError, match="classes must be a positive integer"):
        replace_head(tiny_model(), classes)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_model_without_a_classifier_can_be_neither_trained_nor_evaluated(tmp_path, freeze):
    model, folder = tiny_model(classes=None), tmp_path / "run"
    for call in (
        lambda: loss_and_gradients(model, *random_batch(), StepOptions(freeze=freeze)),
        lambda: evaluate(model, *random_batch()),
        lambda: train(model, DIGITS, make_recipe(freeze=freeze), folder),
    ):
        with pytest.raises(ValueError, match=r"no classifier: .*replace_head"):
            call()
    assert not folder.exists()


@pytest.mark.parametrize("hidden_head", [None, 5])
def test_the_gradients_of_a_frozen_model_are_those_of_the_head(hidden_head):
    model, batch = tiny_model(hidden_head=hidden_head), random_batch()
    loss, tree = loss_and_gradients(model, *batch, StepOptions(shards=3, freeze=True))
    expected_loss, expected = loss_and_gradients(model, *batch, StepOptions(shards=3))
    assert loss == expected_loss
    assert same_bits(tree, {"head": expected["head"]})


def test_a_frozen_body_has_neither_a_pullback_nor_dropout(monkeypatch):
    def fail(*args):
        raise AssertionError("the pullbacks of the blocks are computed")

    batch = random_batch()
    expected_loss, expected = loss_and_gradients(tiny_model(), *batch, FREEZE)
    monkeypatch.setattr(step, "vit", fail)
    loss, tree = loss_and_gradients(tiny_model(dropout=0.5), *batch, FREEZE, seed=(1,))
    assert loss == expected_loss
    assert same_bits(tree, expected)
    with pytest.raises(AssertionError):
        loss_and_gradients(tiny_model(), *batch)


@pytest.mark.parametrize(("optimiser", "ema"), [("sgd", 0.0), ("adamw", 0.0), ("adamw", 0.8)])
def test_training_a_frozen_model_changes_only_the_head(tmp_path, optimiser, ema):
    model = replace_head(tiny_model("float32"), 10)
    before, bits = flatten(model.params), copy_leaves(model.params)
    recipe = make_recipe(freeze=True, optimiser=optimiser, weight_decay=0.3, epochs=2, ema=ema)
    train(model, DIGITS, recipe, tmp_path)
    for params in (model.params, ViT.load(tmp_path / "model.npz").params):
        after = flatten(params)
        changed = {name for name in after if not np.array_equal(after[name], bits[name])}
        assert changed == {"head/kernel", "head/bias"}
    after = flatten(model.params)
    assert all(after[n] is before[n] for n in after if not n.startswith("head"))  # not copied


def test_training_a_frozen_model_equals_a_linear_classifier_on_the_features(tmp_path):
    model = replace_head(tiny_model(), 10)
    recipe = make_recipe(
        freeze=True, epochs=3, batch_size=97, warmup=0, learning_rate=0.5, schedule="constant",
        validation=0,
    )  # fmt: skip
    train(model, DIGITS, recipe, tmp_path)
    W, m = np.zeros((9, 10)), 0
    x = np.pad(model.features(DIGITS.images), ((0, 0), (0, 1)), constant_values=1)  # for the bias
    for _ in range(3):
        scores = np.exp(x @ W)
        p = scores / scores.sum(-1, keepdims=True)
        g = x.T @ (p - np.eye(10)[DIGITS.labels]) / 97
        m = 0.9 * m + g * min(1, 1 / np.linalg.norm(g))
        W = W - 0.5 * m
    np.testing.assert_allclose(model.params["head"]["kernel"], W[:-1], rtol=0, atol=1e-11)
    np.testing.assert_allclose(model.params["head"]["bias"], W[-1], rtol=0, atol=1e-11)


def resize_arrays(images, size, channels):
    images = resample(images, size, "bilinear") if size != images.shape[1:3] else images
    return np.concatenate([images] * channels, axis=-1)


@pytest.mark.parametrize(("size", "channels"), [((8, 8), 3), ((12, 20), 1), ((24, 24), 3)])
def test_images_are_resized_when_they_are_indexed(size, channels):
    d = resize_dataset(DIGITS, size, channels)
    assert (d.name, len(d.images), len(d.held_out_images)) == ("digits", 97, 40)
    assert d.images.shape == (97, *size, channels)
    assert np.array_equal(d.labels, DIGITS.labels)
    for part in ("images", "held_out_images"):
        resized, expected = getattr(d, part), resize_arrays(getattr(DIGITS, part), size, channels)
        for indices in (slice(None), slice(3, 9), np.array([5, 2, 2]), [7, 1], 4):
            assert np.array_equal(resized[indices], expected[indices])
            assert resized[indices].dtype == np.float32


def test_shrunk_images_have_the_means_of_the_pixels():
    small = resize_dataset(DIGITS, (4, 2), 1).images[:]
    means = DIGITS.images.reshape(97, 4, 2, 2, 4, 1).mean((2, 4))
    np.testing.assert_allclose(small, means, rtol=0, atol=1e-6)


def test_boxes_are_scaled_with_the_images():
    d = data.load_scattered(n=5, held_out=4)
    larger = resize_dataset(d, (48, 36), 1)
    for boxes, before in ((larger.boxes, d.boxes), (larger.held_out_boxes, d.held_out_boxes)):
        assert np.array_equal(boxes, before * [2, 1.5, 2, 1.5])
        fraction = box_area_fraction(boxes, (48, 36))
        assert fraction == pytest.approx(box_area_fraction(before, (24, 24)))


def test_colours_are_normalised_by_the_preprocessing():
    preprocessing = get_preprocessing("dino", (16, 16))
    images = resize_dataset(DIGITS, (16, 16), 3, "dino").images[:9]
    plain = resize_arrays(DIGITS.images[:9], (16, 16), 3)
    np.testing.assert_allclose(preprocessing.denormalise(images), plain, rtol=0, atol=1e-6)
    assert abs(images - plain).max() > 0.5
    colour = Dataset("photos", plain, np.arange(9), plain, np.arange(9), tuple("abcdefghi"))
    assert np.array_equal(resize_dataset(colour, (16, 16), 3, "dino").images[:], images)


def test_colour_images_are_not_converted_to_grey():
    colour = DIGITS._replace(images=DIGITS.images.repeat(3, axis=-1))
    assert resize_dataset(colour, (16, 16), 3).images.shape == (97, 16, 16, 3)
    with pytest.raises(ValueError, match="digits have 3 channels"):
        resize_dataset(colour, (8, 8), 1)


def test_a_resized_data_set_is_never_entirely_in_memory():
    tracemalloc.start()
    d = resize_dataset(data.load_scattered(n=2000, held_out=600), (96, 96), 3)  # 288 MB in total
    predict_batches(lambda images: images.mean((1, 2, 3)), d.held_out_images, d.held_out_labels)
    d.images[np.arange(0, 2000, 20)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6


@pytest.mark.parametrize("n", [1, BATCH_SIZE, BATCH_SIZE + 1, 3 * BATCH_SIZE])
def test_images_are_processed_in_batches_in_order(n):
    sizes, images = [], np.arange(n)
    doubled, labels = predict_batches(
        lambda batch: (sizes.append(len(batch)), 2 * batch)[1], images, 3 * images
    )
    assert np.array_equal(doubled, 2 * images)
    assert np.array_equal(labels, 3 * images)
    assert max(sizes) <= BATCH_SIZE
    assert len(sizes) == -(-n // BATCH_SIZE)
