"""A training step: shards, gradient accumulation, dropout, errors, and BLAS's thread limit."""

import weakref

import numpy as np
import pytest
from helpers.models import (
    blas_threads,
    random_batch,
    same_bits,
    three_blas_threads,  # noqa: F401
    tiny_model,
)

from minivit import flatten
from minivit.layers import cross_entropy
from minivit.training import StepOptions, batch_gradients, loss_and_gradients, step
from minivit.tree import pack


@pytest.mark.parametrize("kind", ["labels", "label smoothing", "soft targets"])
@pytest.mark.parametrize(
    ("parts", "shards"),
    [*((1, shards) for shards in range(1, 8)), (2, 1), (2, 3), (3, 2), (6, 1), (7, 3), (9, 2)],
)
def test_a_step_equals_forward_loss_and_backward_of_the_complete_batch(parts, shards, kind):
    model, (images, labels) = tiny_model(), random_batch()
    smoothing = 0.1 if kind == "label smoothing" else 0.0
    if kind == "soft targets":
        labels = np.random.default_rng(3).dirichlet(np.ones(10), size=7)
    logits, model_back = model.forward(images)
    expected_loss, loss_back = cross_entropy(logits, labels, smoothing)
    expected = flatten(model_back(loss_back())[1])

    options = StepOptions(label_smoothing=smoothing, grad_accumulation=parts, shards=shards)
    loss, tree = loss_and_gradients(model, images, labels, options)
    assert isinstance(loss, float)
    assert loss == pytest.approx(float(expected_loss), abs=1e-13)
    gradients = flatten(tree)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=1e-13, err_msg=name)


def test_the_gradients_are_views_of_one_vector_in_the_order_of_the_parameters():
    model = tiny_model()
    gradients = batch_gradients(model, *random_batch(), StepOptions(shards=3)).gradients
    assert all(np.shares_memory(g, gradients.vector) for g in flatten(gradients.tree).values())
    parameters = pack(model.params)
    parameters.vector[:] = gradients.vector
    assert same_bits(model.params, gradients.tree)
    assert gradients.decayed == parameters.decayed


def test_the_default_and_the_maximum_number_of_shards_is_the_number_of_images():
    model, batch = tiny_model(), random_batch(3)
    expected_loss, expected = loss_and_gradients(model, *batch, StepOptions(shards=3))
    for options in (StepOptions(shards=5), StepOptions(threads=4)):
        loss, tree = loss_and_gradients(model, *batch, options)
        assert loss == expected_loss
        assert same_bits(tree, expected)


@pytest.mark.parametrize("shards", [2, 3, 4])
def test_the_same_shards_give_the_same_bits_for_any_number_of_threads(shards):
    # As large as the digits' preset: BLAS would split larger products between its threads.
    model = tiny_model("float32", patch_size=2, width=64, heads=4, mlp_width=256)
    batch = random_batch(128, "float32")
    one, two, three = (
        batch_gradients(model, *batch, StepOptions(shards=shards, threads=threads))
        for threads in (1, 2, 3)
    )
    assert one[:2] == two[:2] == three[:2]
    assert np.array_equal(one.gradients.vector, two.gradients.vector)
    assert np.array_equal(two.gradients.vector, three.gradients.vector)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("parts", "shards"), [(1, 1), (1, 3), (2, 2)])
def test_the_correct_images_of_a_batch_are_counted(soft, parts, shards):
    model, (images, labels) = tiny_model(), random_batch(9)
    labels = np.where(np.arange(9) % 3, model(images).argmax(-1), labels)
    expected = int((model(images).argmax(-1) == labels).sum())
    assert 6 <= expected < 9
    targets = 0.6 * np.eye(10)[labels] + 0.04 if soft else labels
    options = StepOptions(grad_accumulation=parts, shards=shards)
    assert batch_gradients(model, images, targets, options).correct == expected


def test_without_a_seed_dropout_is_inactive():
    batch, options = random_batch(), StepOptions(shards=2)
    loss, tree = loss_and_gradients(tiny_model(dropout=0.5, drop_path=0.5), *batch, options)
    expected_loss, expected = loss_and_gradients(tiny_model(), *batch, options)
    assert loss == expected_loss
    assert same_bits(tree, expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_seed_determines_the_dropout(threads):
    model, batch = tiny_model(dropout=0.5), random_batch()
    options = StepOptions(shards=3, threads=threads)
    runs = [
        loss_and_gradients(model, *batch, options, seed=seed)
        for seed in [(5, 1), (5, 1), (5, 2), (6, 1)]
    ]
    assert runs[0][0] == runs[1][0]
    assert same_bits(runs[0][1], runs[1][1])
    assert len({loss for loss, _ in runs}) == 3


def test_each_part_and_each_shard_has_a_documented_random_stream():
    # Shard s of part i in step t draws from default_rng([seed, grad_accumulation t + i, s]).
    model, (images, labels) = tiny_model(dropout=0.5), random_batch(6)
    options = StepOptions(grad_accumulation=3, shards=2)
    loss, _ = loss_and_gradients(model, images, labels, options, seed=(5, 4))
    losses = []
    for b in range(6):
        generator = np.random.default_rng([5, 12 + b // 2, b % 2])
        logits, _ = model.forward(images[b : b + 1], generator)
        losses.append(cross_entropy(logits, labels[b : b + 1])[0])
    assert loss == pytest.approx(np.mean(losses), abs=1e-12)
    assert len(set(losses)) == 6


def test_the_gradients_of_a_shard_are_freed_before_the_next_result(monkeypatch):
    alive = []

    def map_shards(function, shards, threads):
        for shard in shards:
            result = [function(shard)]
            kernel = weakref.ref(result[0][2]["head"]["kernel"])
            yield result.pop()
            alive.append(kernel() is not None)

    monkeypatch.setattr(step, "map_shards", map_shards)
    loss_and_gradients(tiny_model(), *random_batch(), StepOptions(shards=4))
    assert alive == [False] * 4


def test_invalid_arguments_are_rejected():
    model, (images, labels) = tiny_model(), random_batch()
    with pytest.raises(ValueError, match="7 images, but 6 labels"):
        loss_and_gradients(model, images, labels[:6])
    with pytest.raises(TypeError, match="labels must be an array of class numbers, not list"):
        loss_and_gradients(model, images, labels.tolist())
    with pytest.raises(ValueError, match="label 11 is out of range"):
        loss_and_gradients(model, images, labels + (11 - labels.max()))
    with pytest.raises(ValueError, match="this model expects"):
        loss_and_gradients(model, np.zeros((7, 8, 8, 3)), labels)
    for name in ("shards", "grad_accumulation"):
        for value in (0, -1):
            with pytest.raises(ValueError, match=f"{name} must be at least 1, not {value}"):
                StepOptions(**{name: value})


@pytest.mark.usefixtures("three_blas_threads")
def test_a_step_restores_the_thread_limit_even_if_a_shard_fails():
    options = StepOptions(shards=3, threads=2)
    loss_and_gradients(tiny_model(), *random_batch(), options)
    assert blas_threads() == {3}
    labels = np.array([0, 0, 0, 0, 0, 0, 99])
    with pytest.raises(ValueError, match="label 99") as caught:  # the traceback keeps the frames
        loss_and_gradients(tiny_model(), random_batch()[0], labels, options)
    assert blas_threads() == {3}
    assert caught.traceback


@pytest.mark.usefixtures("three_blas_threads")
def test_an_interruption_between_two_shards_restores_the_thread_limit(monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("minivit.training.step.pack", interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:  # the traceback keeps the frames
        loss_and_gradients(tiny_model(), *random_batch(), StepOptions(shards=3, threads=2))
    assert blas_threads() == {3}
    assert caught.traceback
