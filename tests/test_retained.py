"""The arrays that `list_retained` finds in a pullback, and their memory."""

import numpy as np
import pytest

from minivit import layers, list_retained


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape)


def test_softmax_retains_its_value_only():
    p, pullback = layers.softmax(draw(2, 5))
    retained = list_retained(pullback)
    assert list(retained) == ["p"]
    assert retained["p"] is p
    assert retained.bytes == 2 * 5 * 8
    assert str(retained).splitlines() == ["p  (2, 5)             80 bytes", "total 80 bytes"]


def test_arrays_are_named_by_their_path():
    hidden = {"kernel": draw(3, 7), "bias": draw(7)}
    out = {"kernel": draw(7, 3), "bias": draw(3)}
    _, pullback = layers.mlp(draw(2, 3), hidden, out)
    retained = list_retained(pullback)
    assert retained["hidden_back/kernel"] is hidden["kernel"]
    assert retained["out_back/bias"] is out["bias"]
    assert retained["gelu_back/x"].shape == (2, 7)
    arrays = [draw(2), draw(3)]
    assert list(list_retained(lambda dy: arrays)) == ["arrays/0", "arrays/1"]


def test_shared_memory_counts_once_and_a_view_retains_all_of_it():
    x = draw(4, 6)
    rows, part = x.reshape(2, 12), x[:1, :1]
    retained = list_retained(lambda dy: (x, rows, part))
    assert len(retained) == 3
    assert retained.bytes == list_retained(lambda dy: part).bytes == x.nbytes


def test_scalars_and_strings_are_not_listed():
    D, name, scalar = 5, "x", np.float64(3)
    retained = list_retained(lambda dy: (D, name, scalar))
    assert retained == {}
    assert retained.bytes == 0
    assert str(retained) == "total 0 bytes"


def test_a_function_may_capture_itself():
    x = draw(2)

    def pullback(dy):
        return pullback(dy - 1) if dy else x

    assert list(list_retained(pullback)) == ["x"]


def test_an_array_is_rejected():
    with pytest.raises(TypeError, match="takes a pullback, not ndarray"):
        list_retained(draw(2))
