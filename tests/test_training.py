"""The step, the optimisers, the schedule, the loop, and going on where it was interrupted."""

import contextlib
import io
import json
import math
import os
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from minivit import ViT, ViTConfig, data, flatten, weights
from minivit import optim as optimisers
from minivit.data.pixels import ByteImages
from minivit.layers import cross_entropy
from minivit.training import (
    EMA,
    SGD,
    AdamW,
    Recipe,
    ResumeError,
    baseline,
    clip_by_global_norm,
    evaluate,
    fit_logistic_regression,
    is_unfinished,
    batches,
    loop,
    loss_and_gradients,
    packed_gradients,
    read_log,
    resume,
    schedule_learning_rate,
    train,
    train_sgd,
)
from minivit.tree import is_kernel, pack, unflatten

TINY = {
    "image_size": 8, "patch_size": 4, "channels": 1, "classes": 10,
    "width": 8, "depth": 1, "heads": 2, "mlp_width": 12,
}  # fmt: skip


def moved(dtype="float64", **fields):
    """A tiny model, its parameters moved: behind the zero head of a new one no gradient flows."""
    model = ViT.create(ViTConfig(**TINY | fields), dtype=dtype)
    rng = np.random.default_rng(1)
    for leaf in flatten(model.params).values():
        leaf += 0.2 * rng.normal(size=leaf.shape)
    return model


def some_batch(size=7, dtype="float64"):
    rng = np.random.default_rng(2)
    return rng.normal(size=(size, 8, 8, 1)).astype(dtype), rng.integers(0, 10, size)


def same_bits(one, other):
    one, other = flatten(one), flatten(other)
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


# --- the step: shards change nothing ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "smoothed labels", "soft labels"])
@pytest.mark.parametrize("shards", range(1, 8))
def test_the_step_is_forward_loss_and_backward_of_the_whole_batch(shards, kind):
    model, (images, labels) = moved(), some_batch()
    smoothing = 0.1 if kind == "smoothed labels" else 0
    if kind == "soft labels":
        labels = np.random.default_rng(3).dirichlet(np.ones(10), size=7)
    logits, model_back = model.forward(images)
    expected_loss, loss_back = cross_entropy(logits, labels, smoothing)
    expected = flatten(model_back(loss_back())[1])

    loss, tree = loss_and_gradients(model, images, labels, label_smoothing=smoothing, shards=shards)
    assert isinstance(loss, float)
    assert loss == pytest.approx(float(expected_loss), abs=1e-12)
    gradients = flatten(tree)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=1e-12, err_msg=name)


def test_the_gradients_are_views_of_one_vector_in_the_order_of_the_optimiser():
    model, batch = moved(), some_batch()
    _, tree, vector = packed_gradients(model, *batch, shards=3)
    gradients, optimiser = flatten(tree), AdamW(model.params)
    assert all(np.shares_memory(gradient, vector) for gradient in gradients.values())
    optimiser.vector[:] = vector
    assert same_bits(model.params, tree)


def test_more_shards_than_images_are_as_many_as_images():
    model, batch = moved(), some_batch(3)
    loss, tree = loss_and_gradients(model, *batch, shards=5)
    expected_loss, expected = loss_and_gradients(model, *batch, shards=3)
    assert loss == expected_loss
    assert same_bits(tree, expected)


def test_without_a_number_of_shards_the_loss_is_the_same():
    model, batch = moved(), some_batch()
    loss, _ = loss_and_gradients(model, *batch)
    assert loss == pytest.approx(loss_and_gradients(model, *batch, shards=1)[0], abs=1e-12)


@pytest.mark.parametrize("shards", [2, 3, 4])
def test_the_same_shards_give_the_same_bits_on_any_number_of_threads(shards):
    # As large as the digits' own: where a product is large enough, BLAS cuts it over its threads,
    # as it may within a single shard.
    model = moved("float32", patch_size=2, width=64, heads=4, mlp_width=256)
    images, labels = some_batch(128, "float32")
    one, two, three = (
        packed_gradients(model, images, labels, shards=shards, threads=threads)
        for threads in (1, 2, 3)
    )
    assert one[0] == two[0] == three[0]
    assert np.array_equal(one[2], two[2])
    assert np.array_equal(two[2], three[2])


# --- the step: dropout -----------------------------------------------------------------------


def test_dropout_is_off_without_a_seed():
    batch = some_batch()
    loss, tree = loss_and_gradients(moved(dropout=0.5), *batch, shards=2)
    expected_loss, expected = loss_and_gradients(moved(), *batch, shards=2)
    assert loss == expected_loss
    assert same_bits(tree, expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_seed_decides_what_is_dropped(threads):
    model, batch = moved(dropout=0.5), some_batch()
    runs = [
        loss_and_gradients(model, *batch, seed=seed, shards=3, threads=threads)
        for seed in [(5, 1), (5, 1), (5, 2), (6, 1)]
    ]
    assert runs[0][0] == runs[1][0]
    assert same_bits(runs[0][1], runs[1][1])
    assert len({loss for loss, _ in runs}) == 3


def test_each_shard_drops_for_itself():
    model, (image, label) = moved(dropout=0.5), some_batch(1)
    twice = np.repeat(image, 2, axis=0), np.repeat(label, 2)
    alone, _ = loss_and_gradients(model, image, label, seed=(5,))
    both, _ = loss_and_gradients(model, *twice, seed=(5,), shards=2)
    assert abs(both - alone) > 1e-3  # the mean of two losses, the first of which is `alone`


# --- the step: what it refuses ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.arange(6), ValueError, "7 images, but 6 labels"),
        (np.arange(7) + 4, ValueError, "label 10 is out of range: with 10 classes .* 0 to 9"),
        (np.arange(7) - 1, ValueError, "label -1 is out of range"),
        (np.arange(7.0), TypeError, "integers; these are float64"),
        (np.zeros((7, 9)), ValueError, r"labels of shape .*9\) for logits of shape .*10\)"),
        (np.zeros((7, 1), int), ValueError, "labels of shape"),
        (list(range(7)), TypeError, "labels are an array .* not a list"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, error, message):
    with pytest.raises(error, match=message):
        loss_and_gradients(moved(), some_batch()[0], labels)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="this model takes"):
        loss_and_gradients(moved(), np.zeros((7, 8, 8, 3)), np.arange(7))


@pytest.mark.parametrize("shards", [0, -1])
def test_less_than_one_shard_is_refused(shards):
    with pytest.raises(ValueError, match="shards must be at least 1"):
        loss_and_gradients(moved(), *some_batch(), shards=shards)


# --- the step: BLAS gets its threads back ----------------------------------------------------


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def three_blas_threads():
    with threadpool_limits(limits=3, user_api="blas"):
        yield
        assert blas_threads() == {3}, "the test has left BLAS with another number of threads"


def test_a_step_leaves_blas_its_threads(three_blas_threads):
    loss_and_gradients(moved(), *some_batch(), shards=3, threads=2)
    assert blas_threads() == {3}


def test_a_step_whose_shard_fails_leaves_blas_its_threads(three_blas_threads):
    labels = np.array([0, 0, 0, 0, 0, 0, 99])
    with pytest.raises(ValueError, match="label 99") as kept:
        loss_and_gradients(moved(), some_batch()[0], labels, shards=3, threads=2)
    assert blas_threads() == {3}
    assert kept.traceback


def test_a_step_that_fails_between_its_shards_leaves_blas_its_threads(
    three_blas_threads, monkeypatch
):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("minivit.training.step.pack", interrupted)
    with pytest.raises(KeyboardInterrupt) as kept:  # its traceback holds on to the frames
        loss_and_gradients(moved(), *some_batch(), shards=3, threads=2)
    assert blas_threads() == {3}
    assert kept.traceback


def test_two_steps_at_once_agree_and_leave_blas_its_threads():
    before = blas_threads()
    model, batch = moved(), some_batch()
    expected = loss_and_gradients(model, *batch, shards=4)
    both, results = threading.Barrier(2), []

    def several_steps():
        for _ in range(5):
            both.wait(20)
            results.append(loss_and_gradients(model, *batch, shards=4, threads=2))

    threads = [threading.Thread(target=several_steps) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 10
    assert all(loss == expected[0] for loss, _ in results)
    assert all(same_bits(tree, expected[1]) for _, tree in results)
    assert blas_threads() == before


# --- the optimisers --------------------------------------------------------------------------


def plain_adamw(params, state, gradients, rate, decay, t):
    """Loshchilov and Hutter's Algorithm 2, one tensor after the other."""
    for name, p in params.items():
        g = gradients[name]
        m, v = state.get(name, (np.zeros_like(p), np.zeros_like(p)))
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g**2
        state[name] = m, v
        move = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        if name.endswith("kernel"):
            move = move + decay * p
        params[name] = p - rate * move


def plain_sgd(params, state, gradients, rate, decay, t):
    """Momentum as PyTorch has it, and decay beside it."""
    for name, p in params.items():
        state[name] = 0.9 * state.get(name, 0) + gradients[name]
        decayed = decay * p if name.endswith("kernel") else 0
        params[name] = p - rate * (state[name] + decayed)


OPTIMISERS = {"adamw": (AdamW, plain_adamw), "sgd": (SGD, plain_sgd)}


def random_gradients(params, seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=leaf.shape) for name, leaf in flatten(params).items()}


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("block", [7, optimisers.BLOCK_SIZE])
def test_an_optimiser_is_its_textbook_loop(name, threads, block, monkeypatch):
    monkeypatch.setattr(optimisers, "BLOCK_SIZE", block)
    kind, plain = OPTIMISERS[name]
    model = moved(positions="2d", hidden_head=3)
    expected = {name: leaf.copy() for name, leaf in flatten(model.params).items()}
    optimiser, state = kind(model.params, decay=0.3), {}
    for t, rate in enumerate([0.1, 0.05, 0.2, 0.01, 0.3], start=1):
        gradients = random_gradients(model.params, seed=t)
        plain(expected, state, gradients, rate, 0.3, t)
        vector, _ = pack(unflatten(dict(gradients)), first=is_kernel)
        optimiser.update(vector, rate, threads)
        for leaf_name, leaf in flatten(model.params).items():
            np.testing.assert_allclose(
                leaf, expected[leaf_name], rtol=1e-12, atol=1e-14, err_msg=leaf_name
            )
    assert optimiser.t == 5


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("positions", ["1d", "2d", "relative"])
def test_only_kernels_are_decayed(name, positions):
    model = moved(positions=positions, hidden_head=3)
    before = {name: leaf.copy() for name, leaf in flatten(model.params).items()}
    optimiser = OPTIMISERS[name][0](model.params, decay=0.5)
    optimiser.update(np.zeros_like(optimiser.vector), learning_rate=0.5)
    decayed = set()
    for leaf_name, leaf in flatten(model.params).items():
        if not np.array_equal(leaf, before[leaf_name]):
            decayed.add(leaf_name)
            np.testing.assert_allclose(leaf, 0.75 * before[leaf_name], rtol=1e-14)
    block = "blocks/0"
    assert decayed == {
        "patch_embedding/kernel",
        f"{block}/attention/qkv/kernel",
        f"{block}/attention/out/kernel",
        f"{block}/mlp/hidden/kernel",
        f"{block}/mlp/out/kernel",
        "hidden/kernel",
        "head/kernel",
    }
    kept = before.keys() - decayed
    assert {"class_token", "norm/scale", "norm/bias", "head/bias", "hidden/bias"} <= kept
    assert {f"{block}/norm1/scale", f"{block}/norm2/bias", f"{block}/attention/qkv/bias"} <= kept
    tables = {
        "1d": {"positions/table"},
        "2d": {"positions/rows", "positions/columns", "positions/class_token"},
        "relative": {f"{block}/attention/relative/table"},
    }
    assert tables[positions] <= kept


@given(st.data())
def test_blocks_cover_the_vector_and_never_mix(draw):
    size = draw.draw(st.integers(0, 4 * optimisers.BLOCK_SIZE))
    kernels = draw.draw(st.integers(0, size))
    slices = optimisers.block_slices(size, kernels)
    edges = [0] + [block.stop for block in slices]
    assert [block.start for block in slices] == edges[:-1]
    assert edges[-1] == size
    assert all(0 < block.stop - block.start <= optimisers.BLOCK_SIZE for block in slices)
    assert all(block.stop <= kernels or block.start >= kernels for block in slices)


@pytest.mark.parametrize(
    ("length", "limit", "left"), [(5.0, 1.0, 1.0), (5.0, 5.0, 5.0), (5.0, 7.0, 5.0), (0.0, 1.0, 0)]
)
def test_clipping_shortens_a_gradient_that_is_too_long(length, limit, left):
    gradient = length * np.array([0.6, 0.0, -0.8])
    before = gradient.copy()
    norm = clip_by_global_norm(gradient, limit)
    assert norm == pytest.approx(length)
    np.testing.assert_allclose(gradient * length, before * left, rtol=1e-11)


def test_clipping_is_by_the_norm_of_all_parameters_together():
    gradient = np.ones(100, np.float32)
    clip_by_global_norm(gradient, 1.0)
    np.testing.assert_allclose(gradient, 0.1, rtol=1e-6)
    assert gradient.dtype == np.float32


# --- the schedule ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step_number", "decay", "share"),
    [
        # 100 steps, the first 20 of them warm-up
        (0, "cosine", 1 / 20),
        (9, "cosine", 0.5),
        (19, "cosine", 1),
        (20, "cosine", 1),
        (40, "cosine", (1 + math.sqrt(0.5)) / 2),
        (60, "cosine", 0.5),
        (99, "cosine", (1 - math.cos(math.pi / 80)) / 2),
        (0, "linear", 1 / 20),
        (19, "linear", 1),
        (20, "linear", 1),
        (60, "linear", 0.5),
        (99, "linear", 1 / 80),
        (0, "constant", 1 / 20),
        (20, "constant", 1),
        (60, "constant", 1),
        (99, "constant", 1),
    ],
)
def test_the_rate_climbs_and_then_falls(step_number, decay, share):
    rate = schedule_learning_rate(step_number, steps=100, peak=0.3, warmup=20, schedule=decay)
    assert rate == pytest.approx(0.3 * share, rel=1e-12)


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_without_warm_up_the_first_rate_is_the_peak(decay):
    assert schedule_learning_rate(0, steps=10, peak=0.3, schedule=decay) == 0.3


def test_a_warm_up_longer_than_the_training_only_climbs():
    rates = [schedule_learning_rate(step_number, 4, 1.0, warmup=8) for step_number in range(4)]
    assert rates == [1 / 8, 2 / 8, 3 / 8, 4 / 8]


def test_an_unknown_decay_is_refused():
    with pytest.raises(ValueError, match="unknown decay 'step': choose cosine, linear, constant"):
        schedule_learning_rate(0, 10, 1.0, schedule="step")


# --- the recipe ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"shift": -1}, "shift must be at least 0, not -1"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"shards": 0}, "shards must be at least 1, not 0"),
        ({"rate": -1e-3}, r"rate .* -0\.001"),
        ({"rate": math.nan}, "rate .* number .* nan"),
        ({"rate": math.inf}, "rate .* number .* inf"),
        ({"warmup": -1}, "warmup .* -1"),
        ({"weight_decay": -1}, "weight_decay .* -1"),
        ({"clip": -1}, "clip .* -1"),
        ({"smoothing": -0.1}, r"smoothing .* -0\.1"),
        ({"smoothing": 1.0}, r"smoothing is a share below 1, not 1\.0"),
        ({"randaugment": -1}, "randaugment must be at least 0, not -1"),
        ({"magnitude": -1.0}, r"magnitude goes from 0 to 10, not -1\.0"),
        ({"magnitude": 10.5}, r"magnitude goes from 0 to 10, not 10\.5"),
        ({"magnitude": math.nan}, "magnitude goes from 0 to 10, not nan"),
        ({"erase": -0.1}, r"erase goes from 0 to 1, not -0\.1"),
        ({"erase": 1.5}, r"erase goes from 0 to 1, not 1\.5"),
        ({"mixup": -0.1}, r"mixup is a number from 0 up, not -0\.1"),
        ({"cutmix": math.inf}, "cutmix is a number from 0 up, not inf"),
        ({"average": -0.5}, r"average is a number from 0 up, not -0\.5"),
        ({"average": 1.0}, r"average is a share below 1, not 1\.0"),
        ({"accumulate": 0}, "accumulate must be at least 1, not 0"),
        ({"optimiser": "adam"}, "unknown optimiser 'adam': choose adamw, sgd"),
        ({"decay": "step"}, "unknown decay 'step': choose cosine, linear, constant"),
    ],
    ids=str,
)
def test_a_recipe_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Recipe(**fields)


# --- the loop --------------------------------------------------------------------------------

EPOCHS, STEPS = 4, 5  # of a training here, and steps an epoch
RECIPE = Recipe(
    epochs=EPOCHS, batch_size=20, optimiser="adamw", learning_rate=0.01, warmup=1, schedule="cosine",
    weight_decay=0.05, grad_clip=1.0, label_smoothing=0.1, shift=1, seed=3, shards=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def few_digits():
    """97 digits make five batches of 19 or 20."""
    d = data.load_digits()
    return d._replace(
        images=d.images[:97],
        labels=d.labels[:97],
        held_out_images=d.held_out_images[:40],
        held_out_labels=d.held_out_labels[:40],
    )


def new_model():
    """With dropout: all that is random in a training is random here."""
    config = ViTConfig(**TINY | {"depth": 2}, dropout=0.1, drop_path=0.2)
    return ViT.create(config, seed=3)


def changed(**fields):
    return Recipe(**RECIPE.__dict__ | fields)


def log_text(folder):
    """The log as it is written, without the last column, the seconds."""
    lines = (folder / "log.csv").read_text().splitlines()
    return [line.rpartition(",")[0] for line in lines]


RECIPES = {
    "adamw": {},
    "sgd": {"optimiser": "sgd"},
    "everything": {
        "flip": True, "randaugment": 2, "magnitude": 8.0, "erase": 0.3, "mixup": 0.2,
        "cutmix": 1.0, "average": 0.9, "accumulate": 2,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=RECIPES)
def uninterrupted(request, tmp_path_factory, few_digits):
    """A training from its start to its end: (its recipe, its folder)."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = changed(**RECIPES[request.param])
    train(new_model(), few_digits, recipe, folder)
    return recipe, folder


def test_two_epochs_lower_the_loss(few_digits, tmp_path):
    model = new_model()
    before = evaluate(model, few_digits.images, few_digits.labels)
    train(model, few_digits, changed(epochs=2), tmp_path)
    after = evaluate(model, few_digits.images, few_digits.labels)
    first, second = read_log(tmp_path / "log.csv")
    assert after.loss < before.loss
    assert second["loss"] < first["loss"]


def test_a_score_is_the_mean_cross_entropy_and_the_share_that_is_right(few_digits):
    model = moved("float32")
    loss, accuracy = evaluate(model, few_digits.images, few_digits.labels)
    logits = model(few_digits.images).astype(float)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    right = [bool(p[i].argmax() == label) for i, label in enumerate(few_digits.labels)]
    losses = [-math.log(p[i, label]) for i, label in enumerate(few_digits.labels)]
    assert accuracy == pytest.approx(sum(right) / 97)
    assert loss == pytest.approx(sum(losses) / 97, rel=1e-5)


def test_the_log_has_a_row_for_each_epoch(uninterrupted, few_digits):
    _, folder = uninterrupted
    rows = read_log(folder / "log.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows] == [STEPS, 2 * STEPS, 3 * STEPS, 4 * STEPS]
    rates = [
        schedule_learning_rate(STEPS * epoch - 1, 20, 0.01, warmup=STEPS) for epoch in (1, 2, 3, 4)
    ]
    assert [row["rate"] for row in rows] == rates
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    score = evaluate(ViT.load(folder / "model.npz"), *few_digits[3:5])
    assert (rows[-1]["held_out_loss"], rows[-1]["held_out_accuracy"]) == score


def test_a_finished_training_leaves_a_model_and_a_log_and_nothing_to_resume(uninterrupted):
    _, folder = uninterrupted
    assert sorted(path.name for path in folder.iterdir()) == ["log.csv", "model.npz"]
    assert not is_unfinished(folder)
    assert weights.load_training(folder / "model.npz") == {}


def test_the_score_of_the_last_epoch_is_returned(few_digits, tmp_path):
    score = train(new_model(), few_digits, changed(epochs=1), tmp_path)
    assert score.loss == read_log(tmp_path / "log.csv")[0]["held_out_loss"]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_seed_gives_the_same_bits(uninterrupted, few_digits, tmp_path, threads):
    recipe, folder = uninterrupted
    train(new_model(), few_digits, recipe, tmp_path, threads=threads)
    assert (tmp_path / "model.npz").read_bytes() == (folder / "model.npz").read_bytes()
    assert log_text(tmp_path) == log_text(folder)


def test_another_seed_gives_other_bits(uninterrupted, few_digits, tmp_path):
    recipe, folder = uninterrupted
    train(new_model(), few_digits, Recipe(**recipe.__dict__ | {"seed": 4}), tmp_path)
    one, other = ViT.load(tmp_path / "model.npz"), ViT.load(folder / "model.npz")
    assert not same_bits(one.params, other.params)


class Step(NamedTuple):
    """What one step of a training was given, and what it gave."""

    images: np.ndarray
    labels: np.ndarray
    settings: dict
    loss: float


def steps_of(few_digits, tmp_path, monkeypatch, **fields):
    """The steps of a training."""
    steps, real = [], loop.packed_gradients

    def seen(model, images, labels, **settings):
        loss, tree, vector = real(model, images, labels, **settings)
        steps.append(Step(images, labels, settings, loss))
        return loss, tree, vector

    monkeypatch.setattr(loop, "packed_gradients", seen)
    train(new_model(), few_digits, changed(**fields), tmp_path)
    return steps


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(few_digits, tmp_path, monkeypatch):
    steps = steps_of(few_digits, tmp_path, monkeypatch, epochs=2, shift=0)
    assert sorted(len(step.labels) for step in steps) == [19] * 6 + [20] * 4
    first, second = (
        [bytes(image) for step in epoch for image in step.images]
        for epoch in (steps[:STEPS], steps[STEPS:])
    )
    in_order = list(map(bytes, few_digits.images))
    assert sorted(first) == sorted(second) == sorted(in_order)
    assert first != second
    assert first != in_order
    label_of = dict(zip(in_order, few_digits.labels, strict=True))
    for one in steps:
        assert [label_of[bytes(image)] for image in one.images] == list(one.labels)


def test_images_are_shifted_anew_in_every_epoch(few_digits, tmp_path, monkeypatch):
    steps = steps_of(few_digits, tmp_path, monkeypatch, epochs=2, shift=1)
    images = {bytes(image) for one in steps for image in one.images}
    assert len(images) > 1.5 * 97
    assert len(images - set(map(bytes, few_digits.images))) > 97


def test_every_step_follows_the_recipe(few_digits, tmp_path, monkeypatch):
    steps = steps_of(few_digits, tmp_path, monkeypatch, epochs=2)
    assert [step.settings["seed"] for step in steps] == [(3, t) for t in range(10)]
    assert {step.settings["smoothing"] for step in steps} == {0.1}
    assert {step.settings["shards"] for step in steps} == {3}


def test_the_logged_loss_is_the_mean_over_the_images(few_digits, tmp_path, monkeypatch):
    steps = steps_of(few_digits, tmp_path, monkeypatch, epochs=2)
    for row, epoch in zip(read_log(tmp_path / "log.csv"), (steps[:5], steps[5:]), strict=True):
        mean = sum(step.loss * len(step.labels) for step in epoch) / 97
        assert row["loss"] == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("clip", [0.001, 0])
def test_gradients_are_clipped_before_they_are_used_and_decay_is_set(
    few_digits, tmp_path, monkeypatch, clip
):
    used, real = [], AdamW.update

    def seen(self, gradient, rate, threads):
        used.append((np.linalg.norm(gradient), rate, self.decay))
        real(self, gradient, rate, threads)

    monkeypatch.setattr(AdamW, "update", seen)
    train(new_model(), few_digits, changed(epochs=2, grad_clip=clip, weight_decay=0.25), tmp_path)
    norms, rates, decays = zip(*used, strict=True)
    if clip:
        assert norms == pytest.approx([0.001] * 10, rel=1e-4)
    else:
        assert min(norms) > 0.01
    assert rates == tuple(schedule_learning_rate(t, 10, 0.01, warmup=STEPS) for t in range(10))
    assert set(decays) == {0.25}


def test_a_batch_larger_than_the_data_is_one_step_an_epoch(few_digits, tmp_path):
    train(new_model(), few_digits, changed(epochs=2, batch_size=5000), tmp_path)
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [1, 2]


# --- the batches -----------------------------------------------------------------------------


class Unreadable:
    """Images of which some cannot be read."""

    def __init__(self, images, bad):
        self.images, self.shape, self.bad = images, images.shape, bad

    def __len__(self):
        return len(self.images)

    def read(self, chosen):
        good = ~np.isin(np.arange(len(self))[chosen], self.bad)
        return self.images[chosen][good], good


def epoch_of(few_digits, epoch=1, **fields):
    return list(batches.iterate_batches(few_digits, changed(**fields), epoch))


def test_an_epoch_begins_from_its_seed_and_number_alone(few_digits):
    every = RECIPES["everything"]

    def seen(epoch, seed):
        made = epoch_of(few_digits, epoch, **every | {"seed": seed})
        return [bytes(images) + bytes(labels) for images, labels in made]

    first, again, second, other = seen(1, 3), seen(1, 3), seen(2, 3), seen(1, 4)
    assert first == again
    assert len({*first, *second, *other}) == 3 * STEPS


def test_the_recipe_decides_how_images_are_changed(few_digits, monkeypatch):
    told, real = [], batches.augment

    def seen(images, generator, **settings):
        told.append(settings)
        return real(images, generator, **settings)

    monkeypatch.setattr(batches, "augment", seen)
    how = {"shift": 2, "flip": True, "randaugment": 3, "magnitude": 4.0, "erase": 0.25}
    epoch_of(few_digits, **how)
    assert told == [how | {"border": -1.0}] * STEPS


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_have_mixed_labels(few_digits, tmp_path, monkeypatch, kind):
    fields = {"epochs": 2, "shift": 0, kind: 1.0}
    plain = [epoch_of(few_digits, epoch, shift=0) for epoch in (1, 2)]
    steps = steps_of(few_digits, tmp_path, monkeypatch, **fields)
    assert len(steps) == 2 * STEPS
    unmixed = 0  # a box may be as large as nothing
    for step, (images, labels) in zip(steps, plain[0] + plain[1], strict=True):
        assert step.labels.shape == (len(step.images), 10)
        np.testing.assert_allclose(step.labels.sum(1), 1, atol=1e-6)
        assert step.settings["smoothing"] == 0.1
        # The share of one image's label is the share of its pixels, those of its partner apart.
        share = step.labels[np.arange(len(labels)), labels].min()
        partner = np.roll(images, 1, axis=0)
        mixed = share * images + (1 - share) * partner
        if kind == "mixup":
            np.testing.assert_allclose(step.images, mixed, atol=1e-6)
        else:
            assert ((step.images == images) | (step.images == partner)).all()
        unmixed += np.array_equal(step.images, images)
    assert unmixed <= STEPS


def test_without_mixing_labels_stay_numbers(few_digits):
    for images, labels in epoch_of(few_digits, **RECIPES["everything"] | {"mixup": 0, "cutmix": 0}):
        assert labels.shape == (len(images),)
        assert labels.dtype == few_digits.labels.dtype


def test_what_cannot_be_read_is_left_out_of_its_batch(few_digits):
    bad = np.arange(0, 97, 3)
    some = few_digits._replace(images=Unreadable(few_digits.images, bad))
    seen = epoch_of(some, shift=0)
    left = np.setdiff1d(np.arange(97), bad)
    assert sum(len(images) for images, _ in seen) == len(left)
    label_of = dict(zip(map(bytes, few_digits.images), few_digits.labels, strict=True))
    for images, labels in seen:
        assert [label_of[bytes(image)] for image in images] == list(labels)


@pytest.mark.parametrize("setting", [{"randaugment": 1}, {"erase": 0.5}])
def test_colours_of_another_range_are_not_changed_as_if_they_were_in_this_one(few_digits, setting):
    recipe = Recipe(epochs=1, **setting)
    in_range = data.resize_dataset(few_digits, (16, 16), 3)
    assert next(batches.iterate_batches(in_range, recipe, 1))[0].shape[1:] == (16, 16, 3)
    others = data.resize_dataset(few_digits, (16, 16), 3, "imagenet")
    with pytest.raises(ValueError, match="a mean and a deviation of their own"):
        next(batches.iterate_batches(others, recipe, 1))
    assert next(batches.iterate_batches(others, Recipe(epochs=1, flip=True), 1))[0].max() > 1


def test_what_cannot_begin_leaves_a_finished_training_as_it_is(few_digits, tmp_path):
    train(new_model(), few_digits, changed(epochs=1), tmp_path)
    before = (tmp_path / "model.npz").read_bytes()
    others = data.resize_dataset(few_digits, (8, 8), 1, "imagenet")
    with pytest.raises(ValueError, match="a mean and a deviation of their own"):
        train(new_model(), others, changed(epochs=1, random_erasing=0.5), tmp_path)
    with pytest.raises(ValueError, match="shift 9 is more than the 8 pixels"):
        train(new_model(), few_digits, changed(epochs=1, shift=9), tmp_path)
    assert (tmp_path / "model.npz").read_bytes() == before


def test_what_comes_in_at_a_border_is_black_to_the_model(few_digits):
    white = few_digits._replace(images=np.ones_like(few_digits.images))
    for family in ("minivit", "imagenet"):
        fitted = data.resize_dataset(white, (8, 8), 3, family)
        images, _ = next(batches.iterate_batches(fitted, changed(shift=8), 1))
        how = data.get_preprocessing(family, (8, 8))
        black, paper = how.normalise(np.array([[0.0] * 3, [255.0] * 3]))
        found = np.unique(images.reshape(-1, 3), axis=0)
        np.testing.assert_allclose(found, [black, paper], rtol=0, atol=1e-6)


def test_a_batch_of_which_nothing_can_be_read_is_no_step(few_digits, tmp_path):
    order = np.random.default_rng([3, 1, batches.SHUFFLE]).permutation(97)
    bad = order[19:38]  # all of the second batch
    some = few_digits._replace(images=Unreadable(few_digits.images, bad))
    train(new_model(), some, changed(epochs=1), tmp_path)
    (row,) = read_log(tmp_path / "log.csv")
    assert row["step"] == STEPS - 1
    assert 0.5 < row["loss"] < 5


def test_the_logged_loss_is_of_the_images_that_could_be_read(few_digits, tmp_path, monkeypatch):
    some = few_digits._replace(images=Unreadable(few_digits.images, np.arange(40)))
    steps = steps_of(some, tmp_path, monkeypatch, epochs=1)
    assert sum(len(step.labels) for step in steps) == 57
    mean = sum(step.loss * len(step.labels) for step in steps) / 57
    assert read_log(tmp_path / "log.csv")[0]["loss"] == pytest.approx(mean, rel=1e-12)


def test_a_training_of_which_nothing_can_be_read_ends_in_words(few_digits, tmp_path):
    some = few_digits._replace(images=Unreadable(few_digits.images, np.arange(97)))
    with pytest.raises(ValueError, match="none of the 97 training images could be read"):
        train(new_model(), some, RECIPE, tmp_path)


def test_images_kept_as_bytes_give_the_bits_of_the_same_images_as_floats(few_digits, tmp_path):
    parts = (few_digits.images, few_digits.held_out_images)
    kept = [ByteImages(np.round((part + 1) * 127.5).astype(np.uint8)) for part in parts]
    for name, (images, held_out) in {"bytes": kept, "floats": [part[:] for part in kept]}.items():
        some = few_digits._replace(images=images, held_out_images=held_out)
        train(new_model(), some, changed(epochs=2), tmp_path / name)
    one, other = tmp_path / "bytes", tmp_path / "floats"
    assert (one / "model.npz").read_bytes() == (other / "model.npz").read_bytes()
    assert log_text(one) == log_text(other)


# --- one batch ahead -------------------------------------------------------------------------


def counted(n, made, error=None):
    """n batches, each noted in `made` with its thread; then the error, if there is one."""
    for i in range(n):
        made.append((i, threading.current_thread()))
        yield np.full(1, i), np.full(1, i)
    if error:
        raise error


def test_while_a_batch_is_used_a_thread_makes_the_next_and_no_more():
    made, used = [], []
    before = threading.active_count()
    coming = batches.prefetch(counted(5, made))
    for images, _ in coming:
        used.append(int(images[0]))
        wanted = min(len(used) + 1, 5)
        for _ in range(1000):
            if len(made) >= wanted:
                break
            threading.Event().wait(0.002)
        assert len(made) == wanted
    assert used == [0, 1, 2, 3, 4]
    (thread,) = {thread for _, thread in made}
    assert thread is not threading.current_thread()
    assert threading.active_count() == before


class Broken(Exception):
    """An error of a kind that nobody knows."""


@pytest.mark.parametrize("error", [Broken("a bad file"), KeyboardInterrupt(), StopIteration()])
def test_what_is_raised_while_a_batch_is_made_reaches_its_user(error):
    used, before = [], threading.active_count()
    kind = RuntimeError if isinstance(error, StopIteration) else type(error)
    with pytest.raises(kind) as caught:  # noqa: PT012
        for images, _ in batches.prefetch(counted(2, [], error)):
            used.append(int(images[0]))
    assert used == [0, 1]
    assert kind is RuntimeError or caught.value is error
    assert threading.active_count() == before


def test_the_thread_ends_when_its_user_leaves():
    made, before = [], threading.active_count()
    with contextlib.closing(batches.prefetch(counted(100, made))) as coming:
        next(coming)
    assert threading.active_count() == before
    assert len(made) <= 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, Broken])
def test_the_thread_ends_with_a_training_that_is_broken_off(
    few_digits, tmp_path, monkeypatch, three_blas_threads, error
):
    running = []

    def broken(*args, **kwargs):
        running.append(threading.active_count())
        raise error

    loss_and_gradients(moved(), *some_batch(), shards=RECIPE.shards)  # the workers, who stay
    before = threading.active_count()
    monkeypatch.setattr(loop, "_move", broken)
    with pytest.raises(error) as kept:  # its traceback holds on to the frames
        train(new_model(), few_digits, RECIPE, tmp_path)
    assert running == [before + 1]
    assert threading.active_count() == before
    assert blas_threads() == {3}
    assert kept.traceback


def test_an_error_in_the_data_is_the_error_of_the_training(few_digits, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise Broken

    monkeypatch.setattr(batches, "augment", broken)
    with pytest.raises(Broken):
        train(new_model(), few_digits, RECIPE, tmp_path)


def test_batches_made_ahead_are_those_made_in_turn(few_digits, tmp_path, monkeypatch):
    # Resized as they are read, by products: their last bits depend on how many threads BLAS has.
    some = data.resize_dataset(few_digits, (16, 16), 3)
    model = {"image_size": 16, "channels": 3}
    recipe = changed(epochs=2, **RECIPES["everything"])
    train(moved("float32", **model), some, recipe, tmp_path / "ahead")
    monkeypatch.setattr(loop, "prefetch", lambda made: made)
    train(moved("float32", **model), some, recipe, tmp_path / "in turn")
    one, other = (tmp_path / name / "model.npz" for name in ("ahead", "in turn"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(("shards", "threads"), [(1, {3}), (2, {1})])
def test_a_single_shard_has_all_the_threads_of_blas(
    few_digits, tmp_path, monkeypatch, three_blas_threads, shards, threads
):
    seen = []
    real = loop._move
    monkeypatch.setattr(loop, "_move", lambda *args: (seen.append(blas_threads()), real(*args)))
    train(new_model(), few_digits, changed(epochs=1, shards=shards), tmp_path)
    assert seen == [threads] * STEPS


# --- a batch in pieces -----------------------------------------------------------------------


def gradient_in_pieces(pieces, batch, **fields):
    model, recipe = moved(), changed(grad_accumulation=pieces, **fields)
    run = loop._begin(model, None, recipe, None, threads=2)
    return loop._loss_and_gradient(run, *batch)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("pieces", range(1, 10))
def test_a_batch_in_pieces_has_the_loss_and_the_gradient_of_the_whole(pieces, soft):
    images, labels = some_batch()
    if soft:
        labels = np.random.default_rng(3).dirichlet(np.ones(10), size=7)
    expected_loss, _, expected = packed_gradients(
        moved(), images, labels, label_smoothing=0.1, shards=3
    )
    loss, gradient = gradient_in_pieces(pieces, (images, labels))
    assert loss == pytest.approx(expected_loss, abs=1e-13)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-14)


def test_pieces_are_done_one_after_the_other(few_digits, tmp_path, monkeypatch):
    steps = steps_of(few_digits, tmp_path, monkeypatch, epochs=1, accumulate=3)
    whole = epoch_of(few_digits)
    assert [len(step.labels) for step in steps[:3]] == [6, 6, 7]
    for i, (images, labels) in enumerate(whole):
        pieces = steps[3 * i : 3 * i + 3]
        assert np.array_equal(np.concatenate([piece.images for piece in pieces]), images)
        assert np.array_equal(np.concatenate([piece.labels for piece in pieces]), labels)
        assert {piece.settings["whole"] for piece in pieces} == {len(labels)}
    (row,) = read_log(tmp_path / "log.csv")
    assert row["step"] == STEPS


def test_each_piece_drops_for_itself(few_digits, tmp_path, monkeypatch):
    steps = steps_of(few_digits, tmp_path, monkeypatch, epochs=2, accumulate=3)
    assert [step.settings["seed"] for step in steps] == [(3, i) for i in range(6 * STEPS)]


@pytest.mark.parametrize("accumulate", [4, 50])
def test_a_training_in_pieces_ends_where_one_in_whole_batches_does(
    few_digits, tmp_path, accumulate
):
    models = []
    for pieces in (1, accumulate):
        model = moved()
        train(model, few_digits, changed(optimiser="sgd", grad_accumulation=pieces), tmp_path)
        models.append(flatten(model.params))
    for name, leaf in models[0].items():
        np.testing.assert_allclose(models[1][name], leaf, rtol=0, atol=1e-11, err_msg=name)


def test_shards_are_chosen_for_a_piece(few_digits, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(ViT, "shard_count", lambda self, *args: asked.append(args) or 2)
    recipe = changed(epochs=1, shards=None, grad_accumulation=3)
    train(new_model(), few_digits, recipe, tmp_path, threads=2)
    assert asked[0] == (7, 2)


# --- the average of the weights --------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block", [7, optimisers.BLOCK_SIZE])
@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_is_its_formula(decay, block, threads, monkeypatch):
    monkeypatch.setattr(optimisers, "BLOCK_SIZE", block)
    model, rng = moved(), np.random.default_rng(0)
    optimiser, mean = SGD(model.params), EMA(model.params, decay)
    expected = optimiser.vector.copy()
    for t in range(1, 31):
        optimiser.vector += rng.normal(size=expected.shape)
        d = min(decay, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * optimiser.vector
        mean.update(optimiser.vector, t, threads)
    np.testing.assert_allclose(mean.vector, expected, rtol=0, atol=1e-12)
    # The same order, and arrays of its own.
    assert not any(np.shares_memory(p, mean.vector) for p in flatten(model.params).values())
    assert not same_bits(model.params, mean.params)
    optimiser.vector[:] = mean.vector
    assert same_bits(model.params, mean.params)


def test_the_average_of_weights_that_stay_is_these_weights():
    model = moved("float32")
    mean = EMA(model.params, 0.9)
    for t in range(1, 20):
        mean.update(SGD(model.params).vector, t)
    assert same_bits(mean.params, model.params)
    assert mean.vector.dtype == np.float32


def test_the_average_is_what_is_scored_saved_and_left_in_the_model(
    few_digits, tmp_path, monkeypatch
):
    vectors, states, real, save = [], [], loop._move, loop._save

    def moving(run, *args):
        real(run, *args)
        vectors.append(run.optimiser.vector.astype(float))

    def saving(run, epoch):
        save(run, epoch)
        states.append(weights.load_training(tmp_path / "model.npz"))

    monkeypatch.setattr(loop, "_move", moving)
    monkeypatch.setattr(loop, "_save", saving)
    model = new_model()
    mean = SGD(new_model().params).vector.astype(float)
    score = train(model, few_digits, changed(epochs=2, ema=0.8), tmp_path)
    for t, vector in enumerate(vectors, start=1):
        d = min(0.8, (1 + t) / (10 + t))
        mean = d * mean + (1 - d) * vector
    saved = ViT.load(tmp_path / "model.npz")
    assert evaluate(saved, *few_digits[3:5]) == score
    np.testing.assert_allclose(SGD(saved.params).vector, mean, rtol=0, atol=2e-6)
    assert abs(vectors[-1] - mean).max() > 1e-3
    assert same_bits(model.params, saved.params)
    assert [state.keys() for state in states] == [{"progress", "m", "v", "running"}] * 2 + [set()]
    assert np.array_equal(states[1]["running"], vectors[STEPS - 1])


def test_without_an_average_nothing_of_it_is_kept(interrupted):
    assert "running" not in weights.load_training(interrupted / "model.npz")


def test_an_average_over_a_frozen_body_is_of_the_head_alone(few_digits, tmp_path):
    model, first = moved("float32"), flatten(moved("float32").params)
    train(model, few_digits, changed(epochs=2, ema=0.8, freeze=True), tmp_path)
    saved = flatten(ViT.load(tmp_path / "model.npz").params)
    assert {name for name in first if not np.array_equal(saved[name], first[name])} == {
        "head/kernel",
        "head/bias",
    }
    assert same_bits(model.params, ViT.load(tmp_path / "model.npz").params)


# --- what is shown meanwhile -----------------------------------------------------------------


class Terminal(io.StringIO):
    """A stderr that says it is one."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("long", "shown"), [(0, True), (1000, False)])
def test_a_long_epoch_shows_its_steps_on_a_terminal(few_digits, tmp_path, monkeypatch, long, shown):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(loop, "LONG", long)
    train(new_model(), few_digits, changed(epochs=1), tmp_path)
    text = terminal.getvalue()
    assert ("step" in text) == shown
    assert f"0/{STEPS}" in text or not shown
    assert "1/1" in text
    assert "accuracy" in text
    assert "epoch 1/1:" not in text


def test_without_a_terminal_each_epoch_is_a_plain_line(few_digits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "LONG", 0)
    train(new_model(), few_digits, changed(epochs=2), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]


# --- interrupted and resumed -----------------------------------------------------------------


def interrupt(monkeypatch, name, call):
    """Let one of the loop's functions raise KeyboardInterrupt when it is called that time."""
    real, calls = getattr(loop, name), []

    def interrupted(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, name, interrupted)


PLACES = {  # all in the third epoch
    "at its first step": ("_loss_and_gradient", 2 * STEPS + 1),
    "in the middle of it": ("_move", 2 * STEPS + 3),
    "before the score": ("evaluate", 3),
    "between log and checkpoint": ("_save", 4),  # the first is before all epochs
}


@pytest.mark.parametrize("place", PLACES)
def test_resuming_ends_in_the_bits_of_an_uninterrupted_training(
    uninterrupted, few_digits, tmp_path, monkeypatch, place
):
    recipe, folder = uninterrupted
    with monkeypatch.context() as patch:
        interrupt(patch, *PLACES[place])
        with pytest.raises(KeyboardInterrupt):
            train(new_model(), few_digits, recipe, tmp_path)
    path = tmp_path / "model.npz"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv", "model.npz"]
    assert is_unfinished(tmp_path)
    model, rows = ViT.load(path), read_log(tmp_path / "log.csv")
    assert json.loads(str(weights.load_training(path)["progress"]))["epoch"] == 2
    assert evaluate(model, *few_digits[3:5]).loss == rows[1]["held_out_loss"]

    resume(tmp_path, model, few_digits, threads=1)
    assert path.read_bytes() == (folder / "model.npz").read_bytes()
    assert log_text(tmp_path) == log_text(folder)
    assert same_bits(model.params, ViT.load(path).params)


def test_a_training_interrupted_again_and_again_ends_in_the_same_bits(
    uninterrupted, few_digits, tmp_path, monkeypatch
):
    recipe, folder = uninterrupted
    with monkeypatch.context() as patch:
        interrupt(patch, "_loss_and_gradient", 3)
        with pytest.raises(KeyboardInterrupt):
            train(new_model(), few_digits, recipe, tmp_path)
    for _ in range(EPOCHS - 1):  # each time one epoch further
        with monkeypatch.context() as patch:
            interrupt(patch, "_loss_and_gradient", STEPS + 1)
            with pytest.raises(KeyboardInterrupt):
                resume(tmp_path, ViT.load(tmp_path / "model.npz"), few_digits)
    resume(tmp_path, ViT.load(tmp_path / "model.npz"), few_digits)
    assert (tmp_path / "model.npz").read_bytes() == (folder / "model.npz").read_bytes()
    assert log_text(tmp_path) == log_text(folder)


@pytest.fixture
def interrupted(few_digits, tmp_path, monkeypatch):
    """The folder of a training that was interrupted in its third epoch."""
    with monkeypatch.context() as patch:
        interrupt(patch, "evaluate", 3)
        with pytest.raises(KeyboardInterrupt):
            train(new_model(), few_digits, RECIPE, tmp_path)
    return tmp_path


NEW = ("flip", "randaugment", "magnitude", "erase", "mixup", "cutmix", "average", "accumulate")


def test_a_checkpoint_from_before_the_newer_fields_is_gone_on_with(
    few_digits, interrupted, tmp_path_factory
):
    path = interrupted / "model.npz"
    config, params = weights.load(path)
    state = weights.load_training(path)
    begun = json.loads(str(state["progress"]))
    begun["recipe"] = {name: x for name, x in begun["recipe"].items() if name not in NEW}
    weights.save(path, config, params, state | {"progress": np.array(json.dumps(begun))})
    with np.load(path) as file:
        arrays = dict(file)
    fields = json.loads(str(arrays["config"]))
    rate = fields.pop("drop_path")
    np.savez(path, **arrays | {"config": np.array(json.dumps(fields))})
    assert ViT.load(path).config.drop_path == 0
    resume(interrupted, ViT.load(path, drop_path=rate), few_digits)

    whole = tmp_path_factory.mktemp("whole")
    train(new_model(), few_digits, RECIPE, whole)
    assert path.read_bytes() == (whole / "model.npz").read_bytes()


def test_a_resumed_training_has_its_log_on_the_disk_at_once(interrupted, few_digits, monkeypatch):
    before = (interrupted / "log.csv").read_bytes()
    on_disk = []

    def killed(*args):  # what a process that is killed here would leave behind
        on_disk.append((interrupted / "log.csv").read_bytes())
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_one_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        resume(interrupted, ViT.load(interrupted / "model.npz"), few_digits)
    assert on_disk == [before]


def test_a_training_killed_before_it_had_a_log_goes_on(few_digits, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, "begin_log", 1)
        with pytest.raises(KeyboardInterrupt):
            train(new_model(), few_digits, changed(epochs=2), tmp_path)
    assert not (tmp_path / "log.csv").exists()
    resume(tmp_path, ViT.load(tmp_path / "model.npz"), few_digits)
    assert [row["epoch"] for row in read_log(tmp_path / "log.csv")] == [1, 2]


def test_a_row_of_the_log_is_on_the_disk_before_the_checkpoint_that_is_newer(
    few_digits, tmp_path, monkeypatch
):
    synced, real = [], os.fsync

    def fsync(number):
        real(number)
        name = Path(os.readlink(f"/proc/self/fd/{number}"))
        synced.append((name.name, len(name.read_text().splitlines())) if name.suffix == ".csv"
                      else name.suffix)  # fmt: skip

    monkeypatch.setattr(os, "fsync", fsync)
    train(new_model(), few_digits, changed(epochs=2), tmp_path)
    assert synced == [".tmp", ".tmp", ("log.csv", 2), ".tmp", ("log.csv", 3), ".tmp"]


def test_the_seconds_go_on_from_those_of_the_log(interrupted, few_digits):
    path = interrupted / "log.csv"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].rpartition(",")[0] + ",1000.0"
    path.write_text("\n".join(lines) + "\n")
    resume(interrupted, ViT.load(interrupted / "model.npz"), few_digits)
    seconds = [row["seconds"] for row in read_log(path)]
    assert seconds[1] == 1000
    assert 1000 < seconds[2] <= seconds[3] < 1100


def test_a_finished_training_cannot_be_resumed(uninterrupted, few_digits):
    _, folder = uninterrupted
    before = (folder / "log.csv").read_bytes()
    with pytest.raises(
        ResumeError, match=r"model\.npz is fully trained: there is nothing to go on"
    ):
        resume(folder, ViT.load(folder / "model.npz"), few_digits)
    assert (folder / "log.csv").read_bytes() == before


def test_a_folder_without_a_checkpoint_cannot_be_resumed(few_digits, tmp_path):
    assert not is_unfinished(tmp_path)
    assert not is_unfinished(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"model\.npz"):
        resume(tmp_path, new_model(), few_digits)


def progress(text):
    return lambda training: training | {"progress": np.array(text)}


def without(name):
    return lambda training: {n: a for n, a in training.items() if n != name}


DAMAGES = {
    "no progress": without("progress"),
    "progress that is no JSON": progress("{"),
    "progress that is a list": progress("[]"),
    "progress without an epoch": progress('{"recipe": {}}'),
    "a recipe with an unknown field": progress('{"recipe": {"colour": 3}, "epoch": 2, "t": 10}'),
    "a recipe that makes no sense": progress('{"recipe": {"rate": -1}, "epoch": 2, "t": 10}'),
    "no m": without("m"),
    "v of another shape": lambda training: training | {"v": training["v"][:-1]},
    "v that would be broadcast": lambda training: training | {"v": training["v"][:1]},
    "m with NaN": lambda training: training | {"m": training["m"] * np.nan},
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_rest_of_a_training_is_refused(interrupted, few_digits, kind):
    path = interrupted / "model.npz"
    config, params = weights.load(path)
    weights.save(path, config, params, DAMAGES[kind](weights.load_training(path)))
    with pytest.raises(weights.CheckpointError) as error:
        resume(interrupted, ViT.load(path), few_digits)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["hello\nworld\n", "epoch,step\n1,2\n", "epoch,step\n1\n"])
def test_a_file_that_is_no_log_is_refused_by_its_name(text, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"log\.csv is no log"):
        read_log(path)


@pytest.mark.parametrize("kind", ["no running", "running of another shape", "running with NaN"])
def test_damaged_running_weights_are_refused(few_digits, tmp_path, monkeypatch, kind):
    damage = {
        "no running": without("running"),
        "running of another shape": lambda state: state | {"running": state["running"][:1]},
        "running with NaN": lambda state: state | {"running": state["running"] * np.nan},
    }
    with monkeypatch.context() as patch:
        interrupt(patch, "evaluate", 2)
        with pytest.raises(KeyboardInterrupt):
            train(new_model(), few_digits, changed(ema=0.9), tmp_path)
    path = tmp_path / "model.npz"
    config, params = weights.load(path)
    weights.save(path, config, params, damage[kind](weights.load_training(path)))
    with pytest.raises(weights.CheckpointError, match="running"):
        resume(tmp_path, ViT.load(path), few_digits)


# --- diverging -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize(("batch", "rate"), [(20, 1e9), (5000, 1e38), (5000, 1e39)])
def test_a_diverging_training_stops_and_keeps_its_last_checkpoint(
    few_digits, tmp_path, optimiser, batch, rate
):
    # One step an epoch: then the loss of the step is still that of the first parameters, and
    # only the score tells that the next ones are lost.
    model = moved("float32")
    recipe = changed(
        epochs=2,
        optimiser=optimiser,
        batch_size=batch,
        learning_rate=rate,
        warmup=0,
        weight_decay=0,
        grad_clip=0,
    )
    first = {name: leaf.copy() for name, leaf in flatten(model.params).items()}
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) in epoch 1: the rate"):
        train(model, few_digits, recipe, tmp_path)
    kept = ViT.load(tmp_path / "model.npz")
    assert same_bits(kept.params, first)
    assert read_log(tmp_path / "log.csv") == []
    assert is_unfinished(tmp_path)


# --- beside a linear model -------------------------------------------------------------------


def test_logistic_regression_reads_the_digits():
    assert 0.96 <= fit_logistic_regression(data.load_digits()) <= 1


def test_logistic_regression_can_be_wrong(few_digits):
    wrong = few_digits._replace(held_out_labels=(few_digits.held_out_labels + 1) % 10)
    assert fit_logistic_regression(wrong, steps=20) < 0.3


def test_logistic_regression_reads_as_many_images_as_memory_should_hold(monkeypatch):
    digits, seen = data.load_digits(), []

    class Watched(Unreadable):
        def read(self, chosen):
            seen.append(chosen)
            return super().read(chosen)

    watched = digits._replace(images=Watched(digits.images, np.arange(100)))
    monkeypatch.setattr(baseline, "NUMBERS", 1200 * 64)
    assert 0.95 <= fit_logistic_regression(watched) <= 1
    (chosen,) = seen
    assert len(set(chosen)) == 1200
    assert chosen.max() - chosen.min() > 1400  # from all over the set, which may be in order
    monkeypatch.setattr(baseline, "NUMBERS", 999 * 64)
    assert fit_logistic_regression(watched) is None
    assert len(seen) == 1


def test_logistic_regression_in_parts_is_as_good_as_in_one_batch(monkeypatch):
    digits, parts = data.load_digits(), []
    by_class = np.argsort(digits.labels)
    ordered = digits._replace(images=digits.images[by_class], labels=digits.labels[by_class])
    real = baseline.linear

    def seen(x, **head):
        parts.append(len(x))
        return real(x, **head)

    monkeypatch.setattr(baseline, "linear", seen)
    monkeypatch.setattr(baseline, "BATCH", 100)
    assert 0.96 <= fit_logistic_regression(ordered) <= 1
    assert set(parts[:-1]) == {95, 96}


def test_plain_descent_leaves_out_what_cannot_be_read(few_digits):
    def on_pixels(images, params):
        logits = images.reshape(len(images), -1) @ params["kernel"]
        return logits, lambda dy: (None, {"kernel": images.reshape(len(images), -1).T @ dy})

    def accuracies(some):
        return train_sgd(on_pixels, {"kernel": np.zeros((64, 10))}, some, epochs=3, batch_size=1)

    bad = np.arange(50, 97)
    some = few_digits._replace(
        images=Unreadable(few_digits.images, bad),
        held_out_images=Unreadable(few_digits.held_out_images, [0, 5]),
    )
    assert len(accuracies(some)) == 3
    assert accuracies(some)[-1] * 38 == pytest.approx(round(accuracies(some)[-1] * 38))
