"""Minibatch gradient descent, compared with loops."""

import numpy as np
import pytest
from helpers.models import Unreadable

from minivit import data
from minivit.layers import linear
from minivit.training import train_sgd
from minivit.tree import map_tree

DIGITS = data.load_digits(n=50)


def linear_classifier(images, params):
    logits, back = linear(images.reshape(len(images), -1), **params["head"])

    def pullback(dlogits):
        dx, dhead = back(dlogits)
        return dx.reshape(images.shape), {"head": dhead}

    return logits, pullback


def zero_params():
    return {"head": {"kernel": np.zeros((64, 10)), "bias": np.zeros(10)}}


def test_full_batch_steps_equal_the_textbook_loop():
    params = zero_params() | {"frozen": np.full(3, 7.0)}
    train_sgd(linear_classifier, params, DIGITS, epochs=2, batch_size=50, learning_rate=0.3)
    kernel, bias = np.zeros((64, 10)), np.zeros(10)
    x = DIGITS.images.reshape(50, 64).astype(float)
    for _ in range(2):
        dkernel, dbias = np.zeros((64, 10)), np.zeros(10)
        for i in range(50):
            scores = np.exp(x[i] @ kernel + bias)
            error = scores / scores.sum()
            error[DIGITS.labels[i]] -= 1
            dkernel += np.outer(x[i], error) / 50
            dbias += error / 50
        kernel, bias = kernel - 0.3 * dkernel, bias - 0.3 * dbias
    np.testing.assert_allclose(params["head"]["kernel"], kernel, atol=1e-6)
    np.testing.assert_allclose(params["head"]["bias"], bias, atol=1e-6)
    assert params["frozen"].tolist() == [7, 7, 7]  # it has no gradient


def test_each_epoch_returns_the_held_out_accuracy():
    params, sizes = zero_params(), []

    def record(images, params):
        sizes.append(len(images))
        return linear_classifier(images, params)

    accuracies = train_sgd(record, params, DIGITS, epochs=7, batch_size=16)
    assert len(accuracies) == 7
    predictions = linear_classifier(DIGITS.held_out_images, params)[0].argmax(1)
    assert accuracies[-1] == (predictions == DIGITS.held_out_labels).mean() > 0.6  # chance: 0.1
    assert sorted(sizes[:5]) == [12, 12, 13, 13, 360]  # the batches differ by at most one image


def test_the_seed_determines_the_order_of_the_images():
    def trained(seed):
        params = zero_params()
        train_sgd(linear_classifier, params, DIGITS, epochs=1, batch_size=10, seed=seed)
        return params["head"]["kernel"]

    assert np.array_equal(trained(0), trained(0))
    assert not np.array_equal(trained(0), trained(1))


def test_unreadable_images_are_skipped():
    dataset = DIGITS._replace(
        images=Unreadable(DIGITS.images, np.arange(20, 50)),
        held_out_images=Unreadable(DIGITS.held_out_images, [0, 5]),
    )
    *_, accuracy = train_sgd(linear_classifier, zero_params(), dataset, epochs=3, batch_size=1)
    assert accuracy * 358 == pytest.approx(round(accuracy * 358))


def test_a_loss_of_nan_raises_an_error():
    params = map_tree(lambda p: p + np.nan, zero_params())
    with pytest.raises(FloatingPointError, match=r"the learning rate 0\.1 is too high"):
        train_sgd(linear_classifier, params, DIGITS)
