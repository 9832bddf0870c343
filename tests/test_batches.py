"""The batches of an epoch: order, augmentation, unreadable images, and the background thread."""

import contextlib
import threading

import numpy as np
import pytest
from helpers.models import (
    Unreadable,
    blas_threads,
    few_digits,
    random_batch,
    three_blas_threads,  # noqa: F401
    tiny_model,
)
from helpers.trainings import ALL_OPTIONS, STEPS, make_recipe, new_model, record_steps

from minivit import data
from minivit.training import StepOptions, batches, loop, loss_and_gradients, read_log, train

DIGITS = few_digits()
LABEL_OF = dict(zip(map(bytes, DIGITS.images), DIGITS.labels, strict=True))


def epoch_of(dataset=DIGITS, epoch=1, **fields):
    return list(batches.iterate_batches(dataset, make_recipe(**fields), epoch))


def labels_match(epoch):
    return all(LABEL_OF[bytes(x)] == y for batch in epoch for x, y in zip(*batch, strict=True))


# --- order and augmentation ----------------------------------------------------------------------


def test_each_epoch_contains_every_image_once_in_another_order():
    epochs = [epoch_of(epoch=epoch, shift=0) for epoch in (1, 2)]
    for epoch in epochs:
        assert sorted(len(labels) for _, labels in epoch) == [19] * 3 + [20] * 2
    first, second = ([bytes(x) for images, _ in epoch for x in images] for epoch in epochs)
    assert sorted(first) == sorted(second) == sorted(LABEL_OF)
    assert len({tuple(first), tuple(second), tuple(LABEL_OF)}) == 3
    assert labels_match(epochs[0] + epochs[1])


def test_the_batches_depend_only_on_the_seed_and_the_epoch():
    def contents(epoch, seed):
        pairs = epoch_of(epoch=epoch, **ALL_OPTIONS | {"seed": seed})
        return [bytes(images) + bytes(labels) for images, labels in pairs]

    first, again, second, other = contents(1, 3), contents(1, 3), contents(2, 3), contents(1, 4)
    assert first == again
    assert len({*first, *second, *other}) == 3 * STEPS


def test_the_recipe_sets_the_augmentation(monkeypatch):
    calls, augment = [], batches.augment

    def record(images, generator, **options):
        calls.append(options)
        return augment(images, generator, **options)

    monkeypatch.setattr(batches, "augment", record)
    options = {
        "shift": 2, "flip": True, "randaugment": 3, "randaugment_magnitude": 4.0,
        "random_erasing": 0.25,
    }  # fmt: skip
    for images, labels in epoch_of(**options):
        assert labels.shape == (len(images),)  # without mixing, labels stay integers
        assert labels.dtype == DIGITS.labels.dtype
    assert calls == [options | {"border": -1.0}] * STEPS


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_labels_are_mixed_with_the_weights_of_the_images(method):
    unmixed = 0  # CutMix may draw an empty box
    for epoch in (1, 2):
        plain = epoch_of(epoch=epoch, shift=0)
        mixed = epoch_of(epoch=epoch, shift=0, **{method: 1.0})
        for (images, labels), (mixed_images, targets) in zip(plain, mixed, strict=True):
            assert targets.shape == (len(images), 10)
            np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
            # The weight is not visible if the partner has the same class, so take the minimum.
            weight = targets[np.arange(len(labels)), labels].min()
            partner = np.roll(images, 1, axis=0)
            if method == "mixup":
                expected = weight * images + (1 - weight) * partner
                np.testing.assert_allclose(mixed_images, expected, atol=1e-6)
            else:
                assert ((mixed_images == images) | (mixed_images == partner)).all()
                unchanged = (mixed_images == images).all((0, 3)).mean()
                assert unchanged >= weight - 1e-6
            unmixed += np.array_equal(mixed_images, images)
    assert unmixed <= STEPS


@pytest.mark.parametrize("option", [{"randaugment": 1}, {"random_erasing": 0.5}])
def test_randaugment_and_erasing_require_colours_from_minus_1_to_1(option):
    scaled = data.resize_dataset(DIGITS, (16, 16), 3)
    assert epoch_of(scaled, **option)[0][0].shape[1:] == (16, 16, 3)
    normalised = data.resize_dataset(DIGITS, (16, 16), 3, "imagenet")
    with pytest.raises(ValueError, match="another mean and standard deviation"):
        epoch_of(normalised, **option)
    assert epoch_of(normalised, flip=True)[0][0].max() > 1


@pytest.mark.parametrize("family", ["minivit", "imagenet"])
def test_the_border_of_shifted_images_is_black_after_normalisation(family):
    white = DIGITS._replace(images=np.ones_like(DIGITS.images))
    images, _ = epoch_of(data.resize_dataset(white, (8, 8), 3, family), shift=8)[0]
    preprocessing = data.get_preprocessing(family, (8, 8))
    black_and_white = preprocessing.normalise(np.array([[0.0] * 3, [255.0] * 3]))
    colours = np.unique(images.reshape(-1, 3), axis=0)
    np.testing.assert_allclose(colours, black_and_white, rtol=0, atol=1e-6)


def test_an_invalid_augmentation_leaves_a_complete_training_unchanged(tmp_path):
    train(new_model(), DIGITS, make_recipe(epochs=1), tmp_path)
    before = (tmp_path / "model.npz").read_bytes()
    normalised = data.resize_dataset(DIGITS, (8, 8), 1, "imagenet")
    with pytest.raises(ValueError, match="another mean and standard deviation"):
        train(new_model(), normalised, make_recipe(epochs=1, random_erasing=0.5), tmp_path)
    with pytest.raises(ValueError, match="shift 9 exceeds the image side of 8 pixels"):
        train(new_model(), DIGITS, make_recipe(epochs=1, shift=9), tmp_path)
    assert (tmp_path / "model.npz").read_bytes() == before


# --- unreadable images ---------------------------------------------------------------------------


def test_unreadable_images_are_skipped_with_their_labels():
    unreadable = np.arange(0, 97, 3)
    epoch = epoch_of(DIGITS._replace(images=Unreadable(DIGITS.images, unreadable)), shift=0)
    assert sum(len(images) for images, _ in epoch) == 97 - len(unreadable)
    assert labels_match(epoch)


def test_the_loss_of_an_epoch_is_the_mean_over_the_readable_images(tmp_path, monkeypatch):
    order = np.random.default_rng([3, 1, batches.SHUFFLE]).permutation(97)
    dataset = DIGITS._replace(images=Unreadable(DIGITS.images, order[19:50]))  # all of batch 2
    steps = record_steps(tmp_path, monkeypatch, dataset, epochs=1, validation=0)
    assert sum(len(step.labels) for step in steps) == 97 - 31
    (row,) = read_log(tmp_path / "log.csv")
    mean = sum(step.loss * len(step.labels) for step in steps) / (97 - 31)
    assert row["loss"] == pytest.approx(mean, rel=1e-12)
    assert row["step"] == STEPS - 1  # an empty batch is not a step


def test_training_without_any_readable_image_is_an_error(tmp_path):
    dataset = DIGITS._replace(images=Unreadable(DIGITS.images, np.arange(97)))
    with pytest.raises(ValueError, match="none of the 87 training images could be read: digits"):
        train(new_model(), dataset, make_recipe(), tmp_path)


# --- the background thread -----------------------------------------------------------------------


def record_batches(n, threads, error=None):
    """Yield n batches and append the thread of each to `threads`. Then raise the error, if any."""
    for i in range(n):
        threads.append(threading.current_thread())
        yield np.full(1, i), np.full(1, i)
    if error:
        raise error


def test_a_thread_prepares_exactly_one_batch_ahead():
    threads, used, before = [], [], threading.active_count()
    for images, _ in batches.prefetch(record_batches(5, threads)):
        used.append(int(images[0]))
        expected = min(len(used) + 1, 5)
        for _ in range(10_000):  # at most 20 s
            if len(threads) >= expected:
                break
            threading.Event().wait(0.002)
        assert len(threads) == expected
    assert used == [0, 1, 2, 3, 4]
    (thread,) = set(threads)
    assert thread is not threading.current_thread()
    assert threading.active_count() == before


class Broken(Exception):
    """An exception that no other code raises."""


@pytest.mark.parametrize("error", [Broken("a bad file"), KeyboardInterrupt(), StopIteration()])
def test_an_exception_of_the_background_thread_reaches_the_caller(error):
    used, before = [], threading.active_count()
    expected = RuntimeError if isinstance(error, StopIteration) else type(error)
    with pytest.raises(expected) as caught:  # noqa: PT012
        for images, _ in batches.prefetch(record_batches(2, [], error)):
            used.append(int(images[0]))
    assert used == [0, 1]
    assert expected is RuntimeError or caught.value is error
    assert threading.active_count() == before


def test_closing_the_batches_ends_the_thread():
    threads, before = [], threading.active_count()
    with contextlib.closing(batches.prefetch(record_batches(100, threads))) as prefetched:
        next(prefetched)
    assert threading.active_count() == before
    assert len(threads) <= 2


@pytest.mark.usefixtures("three_blas_threads")
@pytest.mark.parametrize("error", [KeyboardInterrupt, Broken])
def test_the_thread_ends_when_the_training_fails(tmp_path, monkeypatch, error):
    running = []

    def fail(*args):
        running.append(threading.active_count())
        raise error

    loss_and_gradients(tiny_model(), *random_batch(), StepOptions(shards=3))  # start the workers
    before = threading.active_count()
    monkeypatch.setattr(loop, "_update", fail)
    with pytest.raises(error) as caught:  # the traceback keeps the frames
        train(new_model(), DIGITS, make_recipe(), tmp_path)
    assert running == [before + 1]
    assert threading.active_count() == before
    assert blas_threads() == {3}
    assert caught.traceback


def test_prefetching_does_not_change_the_bits(tmp_path, monkeypatch):
    # The images are resized by matrix products, and their last bits depend on BLAS's threads.
    dataset, fields = data.resize_dataset(DIGITS, (16, 16), 3), {"image_size": 16, "channels": 3}
    recipe = make_recipe(epochs=2, **ALL_OPTIONS)
    train(tiny_model("float32", **fields), dataset, recipe, tmp_path / "prefetched")
    monkeypatch.setattr(loop, "prefetch", lambda batches: batches)
    train(tiny_model("float32", **fields), dataset, recipe, tmp_path / "plain")
    paths = (tmp_path / name / "model.npz" for name in ("prefetched", "plain"))
    assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.usefixtures("three_blas_threads")
@pytest.mark.parametrize(("shards", "limit"), [(1, {3}), (2, {1})])
def test_only_a_single_shard_uses_all_threads_of_blas(tmp_path, monkeypatch, shards, limit):
    limits, update = [], loop._update
    record = lambda *args: (limits.append(blas_threads()), update(*args))  # noqa: E731
    monkeypatch.setattr(loop, "_update", record)
    train(new_model(), DIGITS, make_recipe(epochs=1, shards=shards), tmp_path)
    assert limits == [limit] * STEPS
