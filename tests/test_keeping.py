"""What `keeps` finds in a pullback, and what it counts."""

import numpy as np
import pytest

import minivit
from minivit import layers


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape)


def test_softmax_keeps_its_value_and_nothing_else():
    p, pullback = layers.softmax(draw(2, 5))
    kept = minivit.list_retained(pullback)
    assert list(kept) == ["p"]
    assert kept["p"] is p
    assert kept.bytes == 2 * 5 * 8


def test_inner_pullbacks_and_dicts_are_named_by_their_path():
    hidden = {"kernel": draw(3, 7), "bias": draw(7)}
    out = {"kernel": draw(7, 3), "bias": draw(3)}
    _, pullback = layers.mlp(draw(2, 3), hidden, out)
    kept = minivit.list_retained(pullback)
    assert kept["hidden_back/kernel"] is hidden["kernel"]
    assert kept["out_back/bias"] is out["bias"]
    assert kept["gelu_back/x"].shape == (2, 7)


def test_lists_are_counted():
    arrays = [draw(2), draw(3)]
    kept = minivit.list_retained(lambda dy: arrays)
    assert {name: array.shape for name, array in kept.items()} == {
        "arrays/0": (2,),
        "arrays/1": (3,),
    }


def test_views_of_one_memory_count_once():
    x = draw(4, 6)
    rows, part = x.reshape(2, 12), x[:1]
    kept = minivit.list_retained(lambda dy: (x, rows, part))
    assert len(kept) == 3
    assert kept.bytes == x.nbytes


def test_a_part_of_an_array_keeps_the_whole_of_it():
    def pullback(dy):
        return dy * corner

    corner = draw(100, 100)[:1, :1]
    assert minivit.list_retained(pullback).bytes == 100 * 100 * 8


def test_numbers_and_strings_are_not_arrays():
    D, name, scalar = 5, "x", np.float64(3)
    kept = minivit.list_retained(lambda dy: (D, name, scalar))
    assert kept == {}
    assert kept.bytes == 0
    assert str(kept) == "together 0 bytes"


def test_printed_a_line_for_each_array_and_the_sum():
    _, pullback = layers.softmax(draw(2, 5))
    assert str(minivit.list_retained(pullback)).splitlines() == [
        "p  (2, 5)             80 bytes",
        "together 80 bytes",
    ]


def test_a_function_that_captures_itself_ends():
    x = draw(2)

    def pullback(dy):
        return pullback(dy - 1) if dy else x

    assert list(minivit.list_retained(pullback)) == ["x"]


def test_the_memory_of_a_model_is_that_of_its_blocks():
    sizes = {}
    for depth in (1, 2, 3):
        config = minivit.ViTConfig(
            image_size=8, patch_size=2, channels=1, classes=3,
            width=8, depth=depth, heads=2, mlp_width=16,
        )  # fmt: skip
        model = minivit.ViT.create(config, seed=0)
        _, pullback = model.forward(np.zeros((4, 8, 8, 1), np.float32))
        sizes[depth] = minivit.list_retained(pullback).bytes
    assert sizes[3] - sizes[2] == sizes[2] - sizes[1] > 0


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="not a ndarray"):
        minivit.list_retained(draw(2))
