"""Fine-tuning: a new head on an old body, the frozen body, and images made to fit."""

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest

from minivit import ViT, ViTConfig, data, flatten
from minivit.analysis.localisation import box_area_fraction
from minivit.data import Dataset, ResizedImages, get_preprocessing, resize_dataset
from minivit.data.resampling import resample
from minivit.models import initialise
from minivit.training import (
    FINE_TUNING,
    Recipe,
    evaluate,
    loop,
    loss_and_gradients,
    map_batches,
    packed_gradients,
    replace_head,
    resume,
    schedule_learning_rate,
    step,
    train,
)
from minivit.training.evaluate import BATCH
from minivit.tree import map_tree

TINY = {
    "image_size": 8, "patch_size": 4, "channels": 1, "classes": 6,
    "width": 8, "depth": 2, "heads": 2, "mlp_width": 12,
}  # fmt: skip


def moved(dtype="float64", **fields):
    """A tiny model as after a training: no parameter is what it was at first."""
    model = ViT.create(ViTConfig(**TINY | fields), dtype=dtype)
    rng = np.random.default_rng(1)
    for leaf in flatten(model.params).values():
        leaf += 0.2 * rng.normal(size=leaf.shape)
    return model


def copied(tree):
    return {name: leaf.copy() for name, leaf in flatten(tree).items()}


def same_bits(one, other):
    one, other = flatten(one), flatten(other)
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


@pytest.fixture(scope="module")
def few_digits():
    """97 digits make five batches of 19 or 20."""
    d = data.load_digits(n=97)
    return d._replace(
        held_out_images=d.held_out_images[:40], held_out_labels=d.held_out_labels[:40]
    )


def few(size=8, dtype="float64", classes=10, **fields):
    rng = np.random.default_rng(2)
    side, channels = fields.get("image_size", 8), fields.get("channels", 1)
    images = rng.normal(size=(size, side, side, channels)).astype(dtype)
    return images, rng.integers(0, classes, size)


# --- a new head ------------------------------------------------------------------------------

ORIGINS = {
    "a linear head": {},
    "a hidden layer": {"hidden_head": 5},
    "a hidden layer, no classes": {"hidden_head": 5, "classes": None},
    "no classes": {"classes": None},
    "the mean, no biases": {"pooling": "mean", "qkv_bias": False, "positions": "2d"},
}


@pytest.mark.parametrize("fields", ORIGINS.values(), ids=ORIGINS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_body_stays_and_the_head_is_a_linear_one_of_zeros(fields, dtype):
    old = moved(dtype, **fields)
    new = replace_head(old, classes=4)
    assert new.config == dataclasses.replace(old.config, classes=4, hidden_head=None)
    assert new.params.keys() == initialise(new.config).keys()
    head = new.params.pop("head")
    assert head["kernel"].shape == (8, 4)
    assert head["bias"].shape == (4,)
    assert not head["kernel"].any()
    assert not head["bias"].any()
    assert {leaf.dtype for leaf in head.values()} == {np.dtype(dtype)}
    before = flatten(old.params)
    assert all(leaf is before[name] for name, leaf in flatten(new.params).items())


@pytest.mark.parametrize("fields", ORIGINS.values(), ids=ORIGINS)
@pytest.mark.parametrize("classes", [2, 7, 10, 1000])
def test_the_first_loss_is_the_logarithm_of_the_number_of_classes(fields, classes):
    model = replace_head(moved(**fields), classes)
    batch = few(8, classes=classes)
    assert loss_and_gradients(model, *batch, shards=1)[0] == math.log(classes)
    assert loss_and_gradients(model, *batch, shards=1, freeze=True)[0] == math.log(classes)


def test_behind_a_head_of_zeros_only_the_head_has_a_gradient_at_first():
    _, tree = loss_and_gradients(replace_head(moved(), 10), *few())
    touched = {name for name, gradient in flatten(tree).items() if gradient.any()}
    assert touched == {"head/kernel", "head/bias"}


def test_training_the_new_model_leaves_the_old_one_alone(few_digits, tmp_path):
    old = moved("float32")
    before = copied(old.params)
    new = replace_head(old, 10)
    train(new, few_digits, changed(epochs=2), tmp_path)
    assert same_bits(old.params, before)
    assert not np.array_equal(new.params["patch_embedding"]["kernel"],
                              before["patch_embedding/kernel"])  # fmt: skip


def test_dropout_is_as_asked_for_and_not_as_in_pre_training():
    assert replace_head(moved(dropout=0.1), 3).config.dropout == 0
    assert replace_head(moved(), 3, dropout=0.25).config.dropout == 0.25
    assert replace_head(moved(drop_path=0.1), 3).config.drop_path == 0
    assert replace_head(moved(), 3, drop_path=0.25).config.drop_path == 0.25


@pytest.mark.parametrize("classes", [0, -1, 2.0])
def test_a_number_of_classes_that_is_none_is_refused(classes):
    with pytest.raises(ValueError, match="classes is a whole number"):
        replace_head(moved(), classes)


@pytest.mark.parametrize("freeze", [False, True])
def test_without_a_classifier_there_is_nothing_to_train_or_to_score(few_digits, tmp_path, freeze):
    model, folder = moved(classes=None), tmp_path / "run"
    for act in (
        lambda: loss_and_gradients(model, *few(), freeze=freeze),
        lambda: evaluate(model, *few()),
        lambda: train(model, few_digits, changed(freeze=freeze), folder),
    ):
        with pytest.raises(ValueError, match=r"no classifier: .*for_fine_tuning"):
            act()
    assert not folder.exists()


# --- a frozen body ---------------------------------------------------------------------------


def test_frozen_gradients_are_the_head_s_and_no_others():
    model, batch = moved(classes=10), few(7)
    loss, tree, vector = packed_gradients(model, *batch, shards=3, freeze=True)
    expected_loss, expected = loss_and_gradients(model, *batch, shards=3)
    assert loss == expected_loss
    assert same_bits(tree, {"head": expected["head"]})
    assert len(vector) == 8 * 10 + 10


def test_behind_a_hidden_layer_too_the_head_alone_is_trained():
    model, batch = moved(classes=10, hidden_head=5), few(7)
    _, tree = loss_and_gradients(model, *batch, freeze=True)
    assert same_bits(tree, {"head": loss_and_gradients(model, *batch)[1]["head"]})


def test_a_frozen_body_is_never_gone_back_through(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("the whole model, with the pullbacks of its blocks")

    monkeypatch.setattr(step, "vit", never)
    loss_and_gradients(moved(classes=10), *few(), freeze=True)
    with pytest.raises(AssertionError):
        loss_and_gradients(moved(classes=10), *few())


def test_nothing_is_dropped_in_a_frozen_body():
    batch = few()
    loss, tree = loss_and_gradients(moved(classes=10, dropout=0.5), *batch, seed=(1,), freeze=True)
    plain_loss, plain = loss_and_gradients(moved(classes=10), *batch, freeze=True)
    assert loss == plain_loss
    assert same_bits(tree, plain)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_frozen_training_changes_the_head_and_no_other_bit(few_digits, tmp_path, optimiser):
    model = replace_head(moved("float32"), 10)
    before = flatten(model.params)
    bits = copied(model.params)
    recipe = changed(freeze=True, optimiser=optimiser, weight_decay=0.3, epochs=2)
    train(model, few_digits, recipe, tmp_path)
    for tree in (model.params, ViT.load(tmp_path / "model.npz").params):
        others = {n for n, leaf in flatten(tree).items() if not np.array_equal(leaf, bits[n])}
        assert others == {"head/kernel", "head/bias"}
    after = flatten(model.params)
    assert all(after[n] is before[n] for n in after if not n.startswith("head"))  # not even moved


def test_a_frozen_training_is_a_linear_model_of_the_features(few_digits, tmp_path):
    """The same gradient descent, written out on the features alone."""
    model = replace_head(moved(), 10)
    recipe = changed(
        freeze=True, epochs=3, batch_size=97, warmup=0, learning_rate=0.5, schedule="constant"
    )
    train(model, few_digits, recipe, tmp_path)
    x = model.features(few_digits.images)
    W, m = np.zeros((9, 10)), 0
    x = np.concatenate([x, np.ones((97, 1))], axis=1)  # the bias is one more weight
    for _ in range(3):
        scores = np.exp(x @ W)
        p = scores / scores.sum(-1, keepdims=True)
        g = x.T @ (p - np.eye(10)[few_digits.labels]) / 97
        m = 0.9 * m + g * min(1, 1 / np.linalg.norm(g))
        W = W - 0.5 * m
    np.testing.assert_allclose(model.params["head"]["kernel"], W[:-1], rtol=0, atol=1e-11)
    np.testing.assert_allclose(model.params["head"]["bias"], W[-1], rtol=0, atol=1e-11)


# --- the paper's recipe ----------------------------------------------------------------------

RECIPE = dataclasses.replace(
    FINE_TUNING, epochs=4, batch_size=20, learning_rate=0.1, seed=3, shards=3
)


def changed(**fields):
    return dataclasses.replace(RECIPE, **fields)


def test_the_recipe_is_the_paper_s():
    r = FINE_TUNING
    assert (r.optimiser, r.decay, r.clip) == ("sgd", "cosine", 1)
    assert r.weight_decay == r.smoothing == 0
    assert r.warmup > 0
    assert r.batch <= 512
    assert not r.freeze


def released_rate(t, base, warmup, total):
    """The rule of the authors' released code, whose steps count from 0."""
    progress = min(max((t - warmup) / (total - warmup), 0), 1)
    return base * 0.5 * (1 + math.cos(math.pi * progress)) * min(1, t / warmup)


@pytest.mark.parametrize(("warmup", "total"), [(1, 20), (5, 40), (500, 10_000)])
def test_the_rate_is_the_released_code_s_but_for_a_warm_up_that_begins_above_zero(warmup, total):
    for t in range(total):
        theirs = released_rate(t + (t < warmup), 0.03, warmup, total)
        assert schedule_learning_rate(t, total, 0.03, warmup, "cosine") == pytest.approx(
            theirs, rel=1e-12
        )


def test_gradients_are_clipped_first_and_then_gathered_in_the_momentum(few_digits, tmp_path):
    """m = 0.9 m + clipped g, p = p - rate m, written out one tensor after the other."""
    model = replace_head(moved(), 10)
    expected = ViT(model.config, map_tree(np.copy, model.params))
    recipe = changed(epochs=6, batch_size=97, learning_rate=0.5, warmup=2, shards=1, grad_clip=0.25)
    train(model, few_digits, recipe, tmp_path)

    m, norms = {}, []
    for t in range(6):
        gradients = flatten(loss_and_gradients(expected, *few_digits[1:3], shards=1)[1])
        norms.append(math.sqrt(sum(float((g * g).sum()) for g in gradients.values())))
        for name, g in gradients.items():
            m[name] = 0.9 * m.get(name, 0) + g * min(1, 0.25 / norms[-1])
            flatten(expected.params)[name] -= schedule_learning_rate(t, 6, 0.5, warmup=2) * m[name]
    assert min(norms) > 0.25  # each of them was clipped
    after = flatten(model.params)
    for name, leaf in flatten(expected.params).items():
        np.testing.assert_allclose(after[name], leaf, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("freeze", [False, True])
def test_a_rate_that_diverges_is_named(few_digits, tmp_path, freeze):
    recipe = changed(learning_rate=1e39, warmup=0, freeze=freeze)
    with pytest.raises(FloatingPointError, match=r"in epoch 1: the rate of 1e\+39"):
        train(replace_head(moved("float32"), 10), few_digits, recipe, tmp_path)


# --- interrupted, and gone on with -----------------------------------------------------------


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("fields", [{}, {"image_size": 12, "channels": 3}], ids=["8", "12x3"])
def test_resuming_ends_in_the_bits_of_an_uninterrupted_fine_tuning(
    few_digits, tmp_path, monkeypatch, freeze, fields
):
    def begin():
        return replace_head(moved("float32", **fields), 10, dropout=0.1)

    recipe, c = changed(freeze=freeze), begin().config
    fitted = resize_dataset(few_digits, c.image_size, c.channels)
    train(begin(), fitted, recipe, tmp_path / "whole")
    real, calls = loop.packed_gradients, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 13:  # in the third epoch of five steps
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "packed_gradients", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(begin(), fitted, recipe, tmp_path / "parts")
    path = tmp_path / "parts" / "model.npz"
    resume(tmp_path / "parts", ViT.load(path), fitted, threads=1)
    assert path.read_bytes() == (tmp_path / "whole" / "model.npz").read_bytes()


def test_a_training_goes_on_only_with_the_data_it_began_with(few_digits, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_one_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train(replace_head(moved(), 10), few_digits, RECIPE, tmp_path)
    model = ViT.load(tmp_path / "model.npz")
    other = few_digits._replace(name="letters")
    with pytest.raises(ValueError, match=r"model\.npz was training on the digits, not on the let"):
        resume(tmp_path, model, other)
    resume(tmp_path, model, few_digits)


def test_a_recipe_says_whether_it_freezes():
    assert Recipe().freeze is False
    assert changed(freeze=True).freeze is True


# --- images made to fit ----------------------------------------------------------------------


def fitted_by_hand(images, size, channels):
    images = resample(images, size, "bilinear") if size != images.shape[1:3] else images
    return np.concatenate([images] * channels, axis=-1)


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (24, 24)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_resized_as_they_are_taken_out(few_digits, size, channels):
    if (size, channels) == ((8, 8), 1):
        return
    d = resize_dataset(few_digits, size, channels)
    assert d.images.shape == (97, *size, channels)
    assert (len(d.images), len(d.held_out_images)) == (97, 40)
    for fitted, images in ((d.images, few_digits.images),
                           (d.held_out_images, few_digits.held_out_images)):  # fmt: skip
        expected = fitted_by_hand(images, size, channels)
        for chosen in (slice(None), slice(3, 9), np.array([5, 2, 2]), [7, 1]):
            assert np.array_equal(fitted[chosen], expected[chosen])
            assert fitted[chosen].dtype == np.float32
        assert np.array_equal(fitted[4], expected[4])
    assert np.array_equal(d.labels, few_digits.labels)
    assert d.name == "digits"


def test_what_fits_stays_what_it_is(few_digits):
    assert resize_dataset(few_digits, (8, 8), 1) is few_digits


def test_smaller_pixels_are_the_means_of_what_they_cover(few_digits):
    small = resize_dataset(few_digits, (4, 2), 1).images[:]
    means = few_digits.images.reshape(97, 4, 2, 2, 4, 1).mean((2, 4))
    np.testing.assert_allclose(small, means, rtol=0, atol=1e-6)


def test_boxes_grow_with_the_images():
    d = data.load_scattered(n=5, held_out=4)
    larger = resize_dataset(d, (48, 36), 1)
    for boxes, before in ((larger.boxes, d.boxes), (larger.held_out_boxes, d.held_out_boxes)):
        assert np.array_equal(boxes[:, 0::2], 2 * before[:, 0::2])
        assert np.array_equal(boxes[:, 1::2], 1.5 * before[:, 1::2])
        assert box_area_fraction(boxes, (48, 36)) == pytest.approx(
            box_area_fraction(before, (24, 24))
        )


def test_colours_have_the_mean_and_the_deviation_of_the_preprocessing(few_digits):
    how = get_preprocessing("dino", (16, 16))
    images = resize_dataset(few_digits, (16, 16), 3, "dino").images[:9]
    plain = fitted_by_hand(few_digits.images[:9], (16, 16), 3)
    np.testing.assert_allclose(how.denormalise(images), plain, rtol=0, atol=1e-6)
    assert abs(images - plain).max() > 0.5
    coloured = Dataset("photos", plain, np.arange(9), plain, np.arange(9), tuple("abcdefghi"))
    assert np.array_equal(resize_dataset(coloured, (16, 16), 3, "dino").images[:], images)


def test_coloured_images_are_not_made_grey(few_digits):
    coloured = few_digits._replace(images=few_digits.images.repeat(3, axis=-1))
    assert resize_dataset(coloured, (16, 16), 3).images.shape == (97, 16, 16, 3)
    with pytest.raises(ValueError, match="digits have 3 channels: only grey images can be given 1"):
        resize_dataset(coloured, (8, 8), 1)


def test_a_large_data_set_is_never_whole_in_memory():
    tracemalloc.start()
    d = resize_dataset(data.load_scattered(n=2000, held_out=600), (96, 96), 3)  # 288 MB, if it were
    map_batches(lambda images: images.mean((1, 2, 3)), d.held_out_images)
    d.images[np.arange(0, 2000, 20)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6


@pytest.mark.parametrize("n", [1, BATCH, BATCH + 1, 3 * BATCH])
def test_many_images_go_in_batches_and_come_back_in_order(n):
    sizes = []

    def doubled(images):
        sizes.append(len(images))
        return 2 * images

    images = np.arange(n)
    assert np.array_equal(map_batches(doubled, images), 2 * images)
    assert max(sizes) <= BATCH
    assert len(sizes) == -(-n // BATCH)


def test_a_fitted_data_set_is_scored_like_one_resized_by_hand(few_digits):
    model = moved("float32", classes=10, image_size=16, channels=3)
    d = resize_dataset(few_digits, (16, 16), 3)
    by_hand = fitted_by_hand(few_digits.held_out_images, (16, 16), 3)
    assert isinstance(d.held_out_images, ResizedImages)
    assert evaluate(model, *d[3:5]) == evaluate(model, by_hand, few_digits.held_out_labels)
