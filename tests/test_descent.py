"""Plain gradient descent: against its own loop, and on a problem whose answer is known."""

import numpy as np
import pytest

from minivit import data
from minivit.layers import linear
from minivit.training import train_sgd
from minivit.tree import map_tree


@pytest.fixture(scope="module")
def few():
    d = data.load_digits()
    return d._replace(images=d.images[:50], labels=d.labels[:50])


def on_pixels(images, params):
    logits, back = linear(images.reshape(len(images), -1), **params["head"])

    def pullback(dlogits):
        dx, dhead = back(dlogits)
        return dx.reshape(images.shape), {"head": dhead}

    return logits, pullback


def zeros():
    return {"head": {"kernel": np.zeros((64, 10)), "bias": np.zeros(10)}}


def test_a_step_on_the_whole_batch_is_the_textbook_loop(few):
    params = zeros()
    train_sgd(on_pixels, params, few, epochs=2, batch_size=50, learning_rate=0.3)

    kernel, bias = np.zeros((64, 10)), np.zeros(10)
    x = few.images.reshape(50, 64).astype(float)
    for _ in range(2):
        dkernel, dbias = np.zeros((64, 10)), np.zeros(10)
        for i in range(50):
            scores = np.exp(x[i] @ kernel + bias)
            error = scores / scores.sum()
            error[few.labels[i]] -= 1
            dkernel += np.outer(x[i], error) / 50
            dbias += error / 50
        kernel, bias = kernel - 0.3 * dkernel, bias - 0.3 * dbias
    np.testing.assert_allclose(params["head"]["kernel"], kernel, atol=1e-6)
    np.testing.assert_allclose(params["head"]["bias"], bias, atol=1e-6)


def test_each_epoch_gives_the_accuracy_on_what_was_held_out(few):
    params = zeros()
    accuracies = train_sgd(on_pixels, params, few, epochs=7, batch_size=20, learning_rate=0.1)
    assert len(accuracies) == 7
    answers = on_pixels(few.held_out_images, params)[0].argmax(1)
    assert accuracies[-1] == (answers == few.held_out_labels).mean()
    assert accuracies[-1] > 0.6  # of 50 images: a tenth would be chance


def test_the_seed_decides_the_order_of_the_images(few):
    def trained(seed):
        params = zeros()
        train_sgd(on_pixels, params, few, epochs=1, batch_size=10, seed=seed)
        return params["head"]["kernel"]

    assert np.array_equal(trained(0), trained(0))
    assert not np.array_equal(trained(0), trained(1))


def test_every_image_counts_even_if_the_batches_are_uneven(few):
    seen = []

    def counted(images, params):
        seen.append(len(images))
        return on_pixels(images, params)

    train_sgd(counted, zeros(), few, epochs=1, batch_size=16)
    assert sorted(seen[:-1]) == [12, 12, 13, 13]
    assert seen[-1] == 360


def test_a_parameter_without_a_gradient_stays(few):
    params = zeros() | {"frozen": np.full(3, 7.0)}
    train_sgd(on_pixels, params, few, epochs=1)
    assert params["frozen"].tolist() == [7, 7, 7]
    assert params["head"]["bias"].any()


def test_a_loss_that_is_no_number_stops_it(few):
    broken = map_tree(lambda p: p + np.nan, zeros())
    with pytest.raises(FloatingPointError, match=r"the rate 0\.1 is too high"):
        train_sgd(on_pixels, broken, few)
