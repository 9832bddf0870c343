"""Optimisers, gradient clipping, EMA and learning-rate schedules."""

import math

import numpy as np
import pytest
from helpers.models import copy_leaves, same_bits, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from minivit import flatten, optim
from minivit.training import EMA, SGD, AdamW, clip_by_global_norm, schedule_learning_rate
from minivit.tree import map_tree, pack


def plain_adamw(params, state, gradients, learning_rate, weight_decay, t):
    """Algorithm 2 of Loshchilov and Hutter, one array after the other."""
    for name, p in params.items():
        g = gradients[name]
        m, v = state.get(name, (np.zeros_like(p), np.zeros_like(p)))
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g**2
        state[name] = m, v
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        if name.endswith("kernel"):
            step = step + weight_decay * p
        params[name] = p - learning_rate * step


def plain_sgd(params, state, gradients, learning_rate, weight_decay, t):
    """Momentum as in PyTorch, with decoupled weight decay."""
    for name, p in params.items():
        state[name] = 0.9 * state.get(name, 0) + gradients[name]
        decay = weight_decay * p if name.endswith("kernel") else 0
        params[name] = p - learning_rate * (state[name] + decay)


PLAIN = {AdamW: plain_adamw, SGD: plain_sgd}


@pytest.mark.parametrize("optimiser_type", PLAIN)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("block", [7, optim.BLOCK_SIZE])
def test_an_optimiser_equals_the_textbook_loop(optimiser_type, threads, block, monkeypatch):
    monkeypatch.setattr(optim, "BLOCK_SIZE", block)
    model = tiny_model(positions="2d", hidden_head=3)
    expected, state = copy_leaves(model.params), {}
    optimiser = optimiser_type(pack(model.params), weight_decay=0.3)
    for t, learning_rate in enumerate([0.1, 0.05, 0.2, 0.01, 0.3], start=1):
        rng = np.random.default_rng(t)
        gradients = map_tree(lambda leaf, rng=rng: rng.normal(size=leaf.shape), model.params)
        PLAIN[optimiser_type](expected, state, flatten(gradients), learning_rate, 0.3, t)
        optimiser.update(pack(gradients).vector, learning_rate, threads)
        for name, leaf in flatten(model.params).items():
            np.testing.assert_allclose(leaf, expected[name], rtol=1e-12, atol=1e-14, err_msg=name)
    assert optimiser.t == 5


@pytest.mark.parametrize("optimiser_type", PLAIN)
@pytest.mark.parametrize("positions", ["1d", "2d", "relative"])
def test_weight_decay_applies_to_kernels_only(optimiser_type, positions):
    model = tiny_model(positions=positions, hidden_head=3)
    before = copy_leaves(model.params)
    optimiser = optimiser_type(parameters := pack(model.params), weight_decay=0.5)
    optimiser.update(np.zeros_like(parameters.vector), learning_rate=0.5)
    decayed = set()
    for name, leaf in flatten(model.params).items():
        if not np.array_equal(leaf, before[name]):
            decayed.add(name)
            np.testing.assert_allclose(leaf, 0.75 * before[name], rtol=1e-14)
    kernels = ["attention/qkv", "attention/out", "mlp/hidden", "mlp/out"]
    expected = {f"blocks/0/{name}/kernel" for name in kernels}
    assert decayed == expected | {"patch_embedding/kernel", "hidden/kernel", "head/kernel"}


@settings(deadline=None)
@given(st.integers(0, 4 * optim.BLOCK_SIZE), st.floats(0, 1))
def test_blocks_cover_the_vector_and_separate_decayed_parameters(size, fraction):
    decayed = round(size * fraction)
    slices = optim.block_slices(size, decayed)
    edges = [0] + [block.stop for block in slices]
    assert [block.start for block in slices] == edges[:-1]
    assert edges[-1] == size
    assert all(0 < block.stop - block.start <= optim.BLOCK_SIZE for block in slices)
    assert all(block.stop <= decayed or block.start >= decayed for block in slices)


@pytest.mark.parametrize(
    ("norm", "max_norm", "clipped"),
    [(5.0, 1.0, 1.0), (5.0, 5.0, 5.0), (5.0, 7.0, 5.0), (0.0, 1.0, 0.0)],
)
def test_clipping_scales_a_gradient_to_the_maximum_norm(norm, max_norm, clipped):
    gradient = norm * np.array([0.6, 0.0, -0.8], np.float32)
    assert clip_by_global_norm(gradient, max_norm) == pytest.approx(norm)
    np.testing.assert_allclose(gradient, clipped * np.array([0.6, 0, -0.8]), rtol=1e-6)
    assert gradient.dtype == np.float32


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block", [7, optim.BLOCK_SIZE])
@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_ema_equals_its_formula(decay, block, threads, monkeypatch):
    monkeypatch.setattr(optim, "BLOCK_SIZE", block)
    model, rng = tiny_model(), np.random.default_rng(0)
    parameters = pack(model.params)
    ema, expected = EMA(parameters, decay), parameters.vector.copy()
    for t in range(1, 31):
        parameters.vector[:] += rng.normal(size=expected.shape)
        d = min(decay, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * parameters.vector
        ema.update(parameters.vector, t, threads)
    average = ema.parameters.vector
    np.testing.assert_allclose(average, expected, rtol=0, atol=1e-12)
    # The average has the order of the parameters and does not share their memory.
    assert not any(np.shares_memory(p, average) for p in flatten(model.params).values())
    assert not same_bits(model.params, ema.parameters.tree)
    parameters.vector[:] = average
    assert same_bits(model.params, ema.parameters.tree)


def test_the_ema_of_constant_weights_equals_them_exactly():
    model = tiny_model("float32")
    ema = EMA(parameters := pack(model.params), 0.9)
    for t in range(1, 20):
        ema.update(parameters.vector, t)
    assert same_bits(ema.parameters.tree, model.params)
    assert ema.parameters.vector.dtype == np.float32


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("cosine", {20: 1, 40: (1 + math.sqrt(0.5)) / 2, 60: 0.5,
                    99: (1 - math.cos(math.pi / 80)) / 2}),
        ("linear", {20: 1, 60: 0.5, 99: 1 / 80}),
        ("constant", {20: 1, 60: 1, 99: 1}),
    ],
)  # fmt: skip
def test_the_learning_rate_increases_linearly_and_then_follows_the_schedule(schedule, factors):
    for step, factor in ({0: 1 / 20, 9: 0.5, 19: 1} | factors).items():
        learning_rate = schedule_learning_rate(step, 100, 0.3, warmup=20, schedule=schedule)
        assert learning_rate == pytest.approx(0.3 * factor, rel=1e-12)
    assert schedule_learning_rate(0, steps=10, peak=0.3, schedule=schedule) == 0.3  # no warm-up
    longer = [schedule_learning_rate(step, 4, 1.0, warmup=8, schedule=schedule) for step in (0, 3)]
    assert longer == [1 / 8, 4 / 8]  # the warm-up may be longer than the training


def test_an_unknown_schedule_is_rejected():
    message = "unknown schedule 'step': choose cosine, linear, constant"
    with pytest.raises(ValueError, match=message):
        schedule_learning_rate(0, 10, 1.0, schedule="step")


@pytest.mark.parametrize(("warmup", "steps"), [(1, 20), (5, 40), (500, 10_000)])
def test_the_cosine_schedule_matches_the_authors_code(warmup, steps):
    # Both count steps from 0, but the authors' warm-up starts at 0 and ours one step later.
    def authors(t):
        progress = min(max((t - warmup) / (steps - warmup), 0), 1)
        return 0.03 * 0.5 * (1 + math.cos(math.pi * progress)) * min(1, t / warmup)

    for t in range(steps):
        expected = authors(t + (t < warmup))
        assert schedule_learning_rate(t, steps, 0.03, warmup) == pytest.approx(expected, rel=1e-12)
