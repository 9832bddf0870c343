"""The formulas of `minivit cost`, compared with published sizes, counted FLOP and used memory."""

import csv
import dataclasses
import re
import tracemalloc

import numpy as np
import pytest
from helpers.commands import error_of, output_of, run
from helpers.flop_counter import BATCH_SIZE, count_flop
from helpers.models import tiny_model

import minivit
from minivit import ViT, ViTConfig, cost
from minivit.checking.retained import RetainedArrays, list_retained, memory_owner
from minivit.cost import LayerCost, layer_costs, total_cost
from minivit.models import HYBRIDS, SIZES, initialise, parameter_count, vit
from minivit.training import OPTIMISERS, StepOptions, loss_and_gradients
from minivit.tree import count_parameters, pack

TINY = {
    "image_size": (8, 12), "patch_size": 2, "channels": 2, "classes": 3,
    "width": 8, "depth": 3, "heads": 2, "mlp_width": 7,
}  # fmt: skip
STEM = {"stem_width": 32, "depth": 1, "patch_size": 1}
VARIANTS = {
    "plain": {},
    "mean, 2d, hidden": {"pooling": "mean", "positions": "2d", "hidden_head": 5},
    "class, 2d, hidden": {"positions": "2d", "hidden_head": 5},
    "sincos2d": {"positions": "sincos2d", "pooling": "mean"},
    "relative": {"positions": "relative"},
    "relative, mean": {"positions": "relative", "pooling": "mean", "qkv_bias": False},
    "erf": {"gelu": "erf"},
    "dropout": {"dropout": 0.3, "drop_path": 0.2},
    "dropout, erf": {"dropout": 0.3, "gelu": "erf"},
    "drop path, one block": {"depth": 1, "drop_path": 0.2},
    "no classes": {"classes": None, "patch_bias": False},
    "no classes, mean": {"classes": None, "pooling": "mean", "gelu": "erf"},
    "no classes, hidden": {"classes": None, "hidden_head": 5, "pooling": "mean"},
    "stem": STEM | {"stem": (2, 3), "image_size": (15, 22)},
    "root alone": STEM | {"stem": (), "image_size": (15, 24), "patch_size": 2},
    "one stage": STEM | {"stem": (1,), "image_size": (9, 10)},
}
DEEP = ViTConfig(32, 4, classes=10, width=64, depth=5, heads=2, mlp_width=256)
LARGE_KERNELS = dataclasses.replace(DEEP, image_size=8, depth=2, mlp_width=2048)
GMAC = {  # published by timm for one image of 224 pixels, including the norms
    "ViT-Ti/16": 1.26, "ViT-S/32": 1.15, "ViT-S/16": 4.61, "ViT-B/32": 4.41,
    "ViT-B/16": 17.58, "ViT-L/32": 15.39, "ViT-L/16": 61.60,
}  # fmt: skip

CONFIGS = {name: ViTConfig(**TINY | fields) for name, fields in VARIANTS.items()}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


# Formulas


@pytest.mark.parametrize("name", [f"ViT-{size}/14" for size in SIZES] + list(HYBRIDS))
def test_the_layers_of_the_paper_sizes_include_all_parameters(name):
    for fields in ({}, {"pooling": "mean", "hidden_head": 100, "classes": 21_843}):
        config = ViTConfig.named(name, **fields)
        assert total_cost(layer_costs(config, 1)).parameters == parameter_count(config)


@pytest.mark.parametrize("name", GMAC)
def test_multiply_adds_match_published_numbers(name):
    gmac = total_cost(layer_costs(ViTConfig.named(name), 1)).forward / 2e9
    assert 0.993 * GMAC[name] < gmac <= GMAC[name] + 0.005


@every_dtype
@every_config
def test_flop_and_parameters_match_a_counted_pass(config, dtype):
    forward, backward = count_flop(config, dtype)
    predicted = total_cost(layer_costs(config, BATCH_SIZE, dtype))
    assert predicted.forward == forward > 0
    assert predicted.backward == backward
    assert predicted.parameters == count_parameters(initialise(config))


@every_dtype
@every_config
def test_retained_bytes_match_the_arrays_of_the_pullback(config, dtype):
    B = 3
    params = initialise(config, dtype=dtype)
    images = np.random.default_rng(0).normal(size=(B, *config.image_size, config.channels))
    _, pullback = vit(images.astype(dtype), params, config, np.random.default_rng(0))
    owners = {id(memory_owner(p)) for p in minivit.flatten(params).values()}
    arrays = list_retained(pullback).items()
    retained = RetainedArrays({n: a for n, a in arrays if id(memory_owner(a)) not in owners})
    assert total_cost(layer_costs(config, B, dtype)).retained == retained.bytes


def test_costs_of_single_layers_match_their_formulas():
    B, T, D = 2, 197, 768
    costs = {c.layer: c for c in layer_costs(ViTConfig.named("ViT-B/16"), B)}
    for expected in (
        LayerCost("attention: qkv", 12, 3 * (D + 1) * D, 6 * B * T * D * D, 0, 4 * B * T * D),
        LayerCost("attention: softmax", 12, 0, 0, B * 12 * T * T, 4 * B * 12 * T * T),
        LayerCost("attention: A v", 12, forward=2 * B * T * T * D),
        LayerCost("MLP: gelu", 12, elements=4 * B * T * D, retained=16 * B * T * D),
        LayerCost("norm2", 12, 2 * D, elements=B * T * D, retained=4 * B * T * (D + 1)),
    ):
        assert costs[expected.layer] == expected
    for pooling, T in {"class": 197, "mean": 196}.items():
        total = total_cost(layer_costs(ViTConfig.named("ViT-B/16", pooling=pooling), B))
        assert total.elements == B * T * (3 * D + 12 * (4 * D + 4 * D + 12 * T))


# Memory


def peak_of_step(model, batch_size, shards, threads):
    rng = np.random.default_rng(0)
    shape = (batch_size, *model.config.image_size, model.config.channels)
    images, labels = rng.random(shape, dtype="float32"), rng.integers(10, size=batch_size)
    tracemalloc.start()
    try:
        loss_and_gradients(model, images, labels, StepOptions(shards=shards, threads=threads))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("config", "batch_size", "shards", "threads"),
    [
        *((DEEP, 24, *split) for split in [(None, 2), (1, 1), (2, 2), (8, 1), (8, 2), (12, 3)]),
        *((LARGE_KERNELS, 4, n, n) for n in (1, 2, 4)),
        *((dataclasses.replace(DEEP, depth=1, mlp_width=M), 24, 1, 1) for M in (256, 1024)),
        (ViTConfig.named("R+ViT-Ti/16", image_size=64, depth=2, classes=10), 8, 4, 1),
    ],
)
def test_the_peak_of_a_step_is_bounded_tightly(config, batch_size, shards, threads):
    bound = cost.memory(config, batch_size, shards=shards, threads=threads).step
    peak = peak_of_step(ViT.create(config), batch_size, shards, threads)
    # Several threads may reach their peaks at different times, or run one after the other.
    assert (0.97 if threads == 1 else 0.9 / threads) * bound < peak < 1.03 * bound


def test_memory_is_the_sum_of_its_parts():
    m = cost.memory(DEEP, 24, "float64", shards=8, threads=2)
    shard = cost.memory(DEEP, 3, "float64", shards=1)
    vector = 8 * parameter_count(DEEP)
    assert m.parameters == m.gradients == vector
    assert (m.shards, m.shard_size, m.parallel_shards) == (8, 3, 2)
    assert m.retained == total_cost(layer_costs(DEEP, 24, "float64")).retained
    shard_bytes = shard.retained + shard.temporary + vector
    assert m.step == 2 * shard_bytes + 2 * vector
    one_thread_each = cost.memory(DEEP, 24, "float64", shards=8, threads=8)
    assert one_thread_each.step == max(8 * shard_bytes, 7 * shard_bytes + 2 * vector)
    assert m.training == vector + m.optimiser_state + m.step
    assert cost.memory(DEEP, 2, shards=9, threads=2).shards == 2  # at least one image each


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@every_dtype
def test_memory_agrees_with_the_optimiser_and_the_step(optimiser, dtype):
    model = ViT.create("ViT-Ti/4", image_size=32, classes=10, dtype=dtype, depth=1)
    state = OPTIMISERS[optimiser](pack(model.params)).state
    for batch_size in (1, 7, 64, 200):
        m = cost.memory(model.config, batch_size, dtype, optimiser=optimiser, threads=2)
        assert m.optimiser_state == sum(vector.nbytes for vector in state.values())
        assert m.shards == model.choose_shard_count(batch_size, 2)


def test_the_largest_batch_that_fits_is_found():
    def required(batch_size):
        return cost.memory(DEEP, batch_size, shards=1).training

    needs = [required(batch_size) for batch_size in range(1, 60)]
    for available in (needs[0], needs[20] + 1, needs[40], needs[50] - 1):
        size = cost.max_batch_size(available, 10**30, required)
        assert needs[size - 1] <= available < needs[size]
    assert cost.max_batch_size(needs[0] - 1, 64, required) == 0
    assert cost.max_batch_size(needs[40], 5, required) == 5


# Report and command


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "-"), (1, "1 B"), (999, "999 B"), (1000, "1.00 kB"), (17_563_828_224, "17.6 GB"),
        (9_994, "9.99 kB"), (9_996, "10.0 kB"), (99_949, "99.9 kB"), (99_960, "100 kB"),
        (999_600, "1.00 MB"), (5e15, "5.00 PB"), (10**27, "1000 YB"),
    ],
)  # fmt: skip
def test_quantities_have_three_digits(number, text):
    assert cost.format_quantity(number, "B") == text
    assert cost.format_quantity(number) == text.rstrip("B").rstrip()


def test_the_table_is_aligned_and_ends_with_the_total():
    lines = cost.format_table(layer_costs(ViTConfig.named("R50+ViT-B/16"), 64)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[-1].split()[:2] == ["total", "98,659,112"]
    cells = {line[:36].strip(): line[36:].split() for line in lines}
    assert cells["attention: softmax x 12"] == ["-", "-", "-", "358", "M", "1.43", "GB"]
    assert cells["MLP: hidden x 12"][0] == "28,348,416"


def test_the_command_prints_the_table_and_writes_it(tmp_path):
    path = tmp_path / "cost.csv"
    text = output_of("cost", "R50+ViT-B/16", "--batch-size", 3, "--csv", path)
    costs = layer_costs(ViTConfig.named("R50+ViT-B/16"), 3)
    total = total_cost(costs)
    assert cost.format_table(costs) in text
    assert cost.LEGEND in text
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == [c.layer for c in costs]
    names = "parameters", "forward_flop", "backward_flop", "elements", "retained_bytes"
    sums = [sum(int(row[name]) for row in rows) for name in names]
    assert sums == [total[2], total.forward, total.backward, total.elements, total.retained]


def test_the_command_defaults_to_vit_b_16():
    text = output_of("cost")
    assert text == output_of("cost", "ViT-B/16", "--image-size", 224, "--batch-size", 64)
    for part in ("86,567,656", "35.1 GFLOP", "17.6 GMAC", "6.74 TFLOP"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ViT-Q/16", "unknown model 'ViT-Q/16'"),
        ("--image-size 225", "cannot be cut into patches"),
        ("--heads 7", "not a multiple of 7 heads"),
        ("--batch-size 0", "positive integer"),
        ("--classes -1", "--classes"),
    ],
)
def test_the_command_rejects_impossible_models(words, message):
    assert message in error_of("cost", *words.split(), status=2)


def test_every_field_that_affects_the_cost_has_an_option():
    text = run("cost", "--help").out
    fields = {field.name for field in dataclasses.fields(ViTConfig)}
    for name in fields - {"norm_eps", "position_std", "preprocessing"}:
        assert f"-{name.replace('_', '-')}" in text, name


@pytest.mark.parametrize(
    "words",
    [
        "--image-size 32x48", "--classes 7", "--channels 1", "--patch-size 8", "--width 24",
        "--depth 3", "--heads 4", "--mlp-width 30", "--hidden-head 5", "--positions none",
        "--pooling mean", "--dropout 0.1", "--drop-path 0.1", "--no-qkv-bias", "--no-patch-bias",
        "--stem 1 --stem-width 32 --patch-size 1", "--dtype float64", "--batch-size 3",
        "--optimiser sgd", "--shards 2", "--gelu erf",
    ],
)  # fmt: skip
def test_options_of_the_command_change_its_result(words):
    base = "cost ViT-Ti/16 --image-size 32 --classes 10 --depth 2 --batch-size 4 --threads 1 "
    base += "--width 48 --heads 3 --mlp-width 40"
    before, after = output_of(*base.split()), output_of(*f"{base} {words}".split())
    assert after.splitlines()[1:] != before.splitlines()[1:]


# --- the summary of a model -------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{}, {"positions": "relative", "hidden_head": 5, "classes": None, "pooling": "mean"},
     {"stem": (1, 2), "stem_width": 32, "image_size": (16, 24), "patch_size": 1},
     {"dropout": 0.1, "positions": "none"}],
)  # fmt: skip
def test_the_summary_has_the_shapes_and_parameters_of_the_layers(fields):
    model = tiny_model(**fields)
    c, seen = model.config, {}
    H, W = c.image_size
    model.forward(np.zeros((1, H, W, c.channels)), watch=seen.__setitem__)
    title, head, *lines = str(minivit.summary(model)).splitlines()
    assert repr(minivit.summary(c)) == str(minivit.summary(model))
    assert title == c.name
    assert head.split() == ["layer", "output", "parameters", "FLOP"]
    names = [line[:30].partition(" x ")[0].strip() for line in lines]
    numbers = [tuple(map(int, re.findall(r"\d+", line[30:47]))) for line in lines]
    shapes = dict(zip(names, numbers, strict=True))
    assert shapes["image"] == (H, W, c.channels)
    attention = "blocks/0/attention/probabilities"
    assert shapes["attention: softmax"] == seen[attention].shape[1:]
    assert shapes["MLP: out"] == seen["blocks/0/output"].shape[1:] == (c.tokens, c.width)
    assert shapes["MLP: hidden"] == (c.tokens, c.mlp_width)
    assert shapes["attention: qkv"] == (c.tokens, 3 * c.width)
    if c.classes:
        assert shapes["head"] == (c.classes,)
    if c.stem:
        stem = [shape for name, shape in shapes.items() if name.startswith("stem")]
        assert stem[-1] == (*c.feature_map, c.feature_channels)
        assert set(stem[:-1]) == {()}
    parameters = [int(line[47:60].replace(",", "").replace("-", "0")) for line in lines]
    assert sum(parameters[:-1]) == parameters[-1]
    assert parameters[-1] == sum(leaf.size for leaf in minivit.flatten(model.params).values())


def test_the_flop_of_the_summary_are_those_of_the_formulas():
    config = ViTConfig.named("ViT-B/16")
    total = str(minivit.summary(config)).splitlines()[-1]
    assert total.split() == ["total", "86,567,656", "35.1", "G"]
