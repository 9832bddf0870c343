"""The step, the optimisers, the schedule, the loop, and going on where it was interrupted."""

import json
import math
import threading
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from minivit import ViT, ViTConfig, data, flatten, weights
from minivit.layers import cross_entropy
from minivit.training import (
    SGD,
    AdamW,
    Recipe,
    Unfinished,
    clip_by_global_norm,
    evaluate,
    is_unfinished,
    learning_rate,
    logistic_regression,
    loop,
    loss_and_gradients,
    optimisers,
    packed_gradients,
    read_log,
    resume,
    train,
)
from minivit.training.step import is_kernel
from minivit.tree import pack, unflatten

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

    loss, tree = loss_and_gradients(model, images, labels, smoothing=smoothing, shards=shards)
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


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_the_same_shards_give_the_same_bits_on_any_number_of_threads(shards):
    # As large as the digits' own: where a product is large enough, BLAS cuts it over its threads.
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
@pytest.mark.parametrize("block", [7, optimisers.BLOCK])
def test_an_optimiser_is_its_textbook_loop(name, threads, block, monkeypatch):
    monkeypatch.setattr(optimisers, "BLOCK", block)
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
    optimiser.update(np.zeros_like(optimiser.vector), rate=0.5)
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
    size = draw.draw(st.integers(0, 4 * optimisers.BLOCK))
    kernels = draw.draw(st.integers(0, size))
    slices = optimisers.blocks(size, kernels)
    edges = [0] + [block.stop for block in slices]
    assert [block.start for block in slices] == edges[:-1]
    assert edges[-1] == size
    assert all(0 < block.stop - block.start <= optimisers.BLOCK for block in slices)
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
    rate = learning_rate(step_number, steps=100, peak=0.3, warmup=20, decay=decay)
    assert rate == pytest.approx(0.3 * share, rel=1e-12)


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_without_warm_up_the_first_rate_is_the_peak(decay):
    assert learning_rate(0, steps=10, peak=0.3, decay=decay) == 0.3


def test_a_warm_up_longer_than_the_training_only_climbs():
    rates = [learning_rate(step_number, 4, 1.0, warmup=8) for step_number in range(4)]
    assert rates == [1 / 8, 2 / 8, 3 / 8, 4 / 8]


def test_an_unknown_decay_is_refused():
    with pytest.raises(ValueError, match="unknown decay 'step': choose cosine, linear, constant"):
        learning_rate(0, 10, 1.0, decay="step")


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
    epochs=EPOCHS, batch=20, optimiser="adamw", rate=0.01, warmup=1, decay="cosine",
    weight_decay=0.05, clip=1.0, smoothing=0.1, shift=1, seed=3, shards=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def few_digits():
    """97 digits make five batches of 19 or 20."""
    d = data.digits()
    return d._replace(
        images=d.images[:97],
        labels=d.labels[:97],
        held_out_images=d.held_out_images[:40],
        held_out_labels=d.held_out_labels[:40],
    )


def new_model():
    """With dropout: all that is random in a training is random here."""
    return ViT.create(ViTConfig(**TINY, dropout=0.1), seed=3)


def changed(**fields):
    return Recipe(**RECIPE.__dict__ | fields)


def log_text(folder):
    """The log as it is written, without the last column, the seconds."""
    lines = (folder / "log.csv").read_text().splitlines()
    return [line.rpartition(",")[0] for line in lines]


@pytest.fixture(scope="module", params=["adamw", "sgd"])
def uninterrupted(request, tmp_path_factory, few_digits):
    """A training from its start to its end: (its recipe, its folder)."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = changed(optimiser=request.param)
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
    rates = [learning_rate(STEPS * epoch - 1, 20, 0.01, warmup=STEPS) for epoch in (1, 2, 3, 4)]
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


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(
    few_digits, tmp_path, monkeypatch
):
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
    train(new_model(), few_digits, changed(epochs=2, clip=clip, weight_decay=0.25), tmp_path)
    norms, rates, decays = zip(*used, strict=True)
    if clip:
        assert norms == pytest.approx([0.001] * 10, rel=1e-4)
    else:
        assert min(norms) > 0.01
    assert rates == tuple(learning_rate(t, 10, 0.01, warmup=STEPS) for t in range(10))
    assert set(decays) == {0.25}


def test_a_batch_larger_than_the_data_is_one_step_an_epoch(few_digits, tmp_path):
    train(new_model(), few_digits, changed(epochs=2, batch=5000), tmp_path)
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [1, 2]


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
    "at its first step": ("packed_gradients", 2 * STEPS + 1),
    "in the middle of it": ("packed_gradients", 2 * STEPS + 3),
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
        interrupt(patch, "packed_gradients", 3)
        with pytest.raises(KeyboardInterrupt):
            train(new_model(), few_digits, recipe, tmp_path)
    for _ in range(EPOCHS - 1):  # each time one epoch further
        with monkeypatch.context() as patch:
            interrupt(patch, "packed_gradients", STEPS + 1)
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


def test_a_resumed_training_has_its_log_on_the_disk_at_once(
    interrupted, few_digits, monkeypatch
):
    before = (interrupted / "log.csv").read_bytes()
    on_disk = []

    def killed(*args):  # what a process that is killed here would leave behind
        on_disk.append((interrupted / "log.csv").read_bytes())
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_one_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        resume(interrupted, ViT.load(interrupted / "model.npz"), few_digits)
    assert on_disk == [before]


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
    with pytest.raises(Unfinished, match=r"model\.npz is fully trained: there is nothing to go on"):
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
        epochs=2, optimiser=optimiser, batch=batch, rate=rate, warmup=0, weight_decay=0, clip=0
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
    assert 0.96 <= logistic_regression(data.digits()) <= 1


def test_logistic_regression_can_be_wrong(few_digits):
    wrong = few_digits._replace(held_out_labels=(few_digits.held_out_labels + 1) % 10)
    assert logistic_regression(wrong, steps=20) < 0.3
