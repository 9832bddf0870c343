"""The ledger of `cost`: against published sizes, against counting, and against what stays alive."""

import csv
import dataclasses
from functools import partial
from importlib import import_module

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import minivit
from minivit import ViT, ViTConfig, cost, layers
from minivit.checking.retained import memory_owner
from minivit.cli import main
from minivit.cost import counting, formulas
from minivit.cost.measure import Trial, run, trials
from minivit.models import initialise, vit
from minivit.options import build_parser
from minivit.tree import count_parameters, map_tree

memory_of = import_module("minivit.cost.memory")

TINY = {
    "image_size": (8, 12), "patch_size": 2, "channels": 2, "classes": 3,
    "width": 8, "depth": 3, "heads": 2, "mlp_width": 7,
}  # fmt: skip
STEM = {"stem_width": 32, "depth": 1}
CONFIGS = {
    "plain": {},
    "mean, 2d, hidden": {"pooling": "mean", "positions": "2d", "hidden_head": 5},
    "class, 2d, hidden": {"positions": "2d", "hidden_head": 5},
    "sincos2d": {"positions": "sincos2d", "pooling": "mean"},
    "none": {"positions": "none"},
    "relative": {"positions": "relative"},
    "relative, mean": {"positions": "relative", "pooling": "mean", "qkv_bias": False},
    "erf": {"gelu": "erf"},
    "dropout": {"dropout": 0.3, "drop_path": 0.2},
    "dropout, erf": {"dropout": 0.3, "gelu": "erf"},
    "drop path, one block": {"depth": 1, "drop_path": 0.2},
    "no classes": {"classes": None, "patch_bias": False},
    "no classes, mean": {"classes": None, "pooling": "mean", "gelu": "erf"},
    "no classes, hidden": {"classes": None, "hidden_head": 5, "pooling": "mean"},
    "one head": {"heads": 1},
    "stem": STEM | {"stem": (2, 3), "image_size": (15, 22), "patch_size": 1},
    "root alone": STEM | {"stem": (), "image_size": (15, 24)},
    "one stage": STEM | {"stem": (1,), "image_size": (9, 10), "patch_size": 1},
}

# parameters without classes, with 1,000, and with 21,843; with 21,843 and a hidden layer of D
PLAIN = {
    "ViT-Ti/16": (5_524_416, 5_717_416, 9_740_115, 9_777_171),
    "ViT-S/16": (21_665_664, 22_050_664, 30_075_219, 30_223_059),
    "ViT-S/32": (22_493_952, 22_878_952, 30_903_507, 31_051_347),
    "ViT-B/8": (85_807_872, 86_576_872, 102_605_139, 103_195_731),
    "ViT-B/16": (85_798_656, 86_567_656, 102_595_923, 103_186_515),
    "ViT-B/32": (87_455_232, 88_224_232, 104_252_499, 104_843_091),
    "ViT-L/16": (303_301_632, 304_326_632, 325_690_707, 326_740_307),
    "ViT-L/32": (305_510_400, 306_535_400, 327_899_475, 328_949_075),
    "ViT-H/14": (630_764_800, 632_045_800, 658_745_683, 660_385_363),
}
HYBRIDS = {
    "R+ViT-Ti/16": (6_337_704, 10_360_403, 10_397_459),
    "R26+ViT-S/32": (36_431_912, 44_456_467, 44_604_307),
    "R26+ViT-B/32": (101_383_976, 117_412_243, 118_002_835),
    "R50+ViT-B/16": (98_659_112, 114_687_379, 115_277_971),
    "R50+ViT-L/32": (328_994_856, 350_358_931, 351_408_531),
}
LARGER = {  # at 384 pixels, 1,000 classes
    "ViT-Ti/16": 5_790_376, "ViT-S/16": 22_196_584, "ViT-S/32": 22_915_432,
    "ViT-B/8": 87_744_232, "ViT-B/16": 86_859_496, "ViT-B/32": 88_297_192,
    "ViT-L/16": 304_715_752, "ViT-L/32": 306_632_680, "ViT-H/14": 632_651_240,
}  # fmt: skip
GMACS = {  # timm's, of one image of 224 pixels; it counts the norms too
    "ViT-Ti/16": 1.26, "ViT-S/32": 1.15, "ViT-S/16": 4.61, "ViT-B/32": 4.41,
    "ViT-B/16": 17.58, "ViT-L/32": 15.39, "ViT-L/16": 61.60,
}  # fmt: skip


def tiny(name):
    return ViTConfig(**TINY | CONFIGS[name])


def parameters_of(name, **fields):
    return cost.totals(cost.rows(ViTConfig.named(name, **fields), 1)).parameters


def forward_and_back(config, dtype, batch=3):
    """The parameters, and the pullback of a forward in which dropout is on."""
    params = initialise(config, dtype=dtype)
    shape = (batch, *config.image_size, config.channels)
    images = np.random.default_rng(0).normal(size=shape).astype(dtype)
    return params, vit(images, params, config, np.random.default_rng(0))[1]


# --- against what was published --------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_parameters_of_the_paper_s_sizes(name):
    body, imagenet, imagenet21k, hidden = PLAIN[name]
    width = ViTConfig.named(name).width
    assert parameters_of(name, classes=None) == body
    assert parameters_of(name) == imagenet
    assert parameters_of(name, classes=21_843) == imagenet21k
    assert parameters_of(name, classes=21_843, hidden_head=width) == hidden
    size = ViTConfig.named(name, image_size=384) if name != "ViT-H/14" else None
    if size is not None:
        assert parameters_of(name, image_size=384) == LARGER[name]
    else:  # 384 is no multiple of 14: 27 x 27 patches
        assert parameters_of(name, image_size=378) == LARGER[name]


@pytest.mark.parametrize("name", HYBRIDS)
def test_parameters_of_the_hybrids(name):
    imagenet, imagenet21k, hidden = HYBRIDS[name]
    width = ViTConfig.named(name).width
    assert parameters_of(name) == imagenet
    assert parameters_of(name, classes=21_843) == imagenet21k
    assert parameters_of(name, classes=21_843, hidden_head=width) == hidden


def test_parameters_without_a_class_token_and_on_small_images():
    assert parameters_of("ViT-S/16", pooling="mean") == 22_049_896
    assert parameters_of("ViT-B/16", pooling="mean") == 86_566_120
    cifar = {"image_size": 32, "classes": 10}
    assert parameters_of("ViT-Ti/4", **cifar) == 5_362_762
    assert parameters_of("ViT-S/4", **cifar) == 21_342_346
    assert parameters_of("ViT-B/4", **cifar) == 85_152_010


@pytest.mark.parametrize(("name", "count"), [("R26+ViT-B/32", 13_946_176),
                                             ("R50+ViT-B/16", 11_894_848),
                                             ("R50+ViT-L/32", 23_508_032)])  # fmt: skip
def test_parameters_of_the_stems(name, count):
    stem = formulas.stem_rows(ViTConfig.named(name), 1, 4)
    assert cost.totals(stem).parameters == count


@pytest.mark.parametrize("name", GMACS)
def test_products_of_an_image_are_those_that_others_publish(name):
    gmacs = cost.totals(cost.rows(ViTConfig.named(name), 1)).forward / 2e9
    assert 0.993 * GMACS[name] < gmacs <= GMACS[name] + 0.005


# --- against counting ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_product_is_foreseen(name, dtype):
    config = tiny(name)
    counts = cost.counted_flop(config, dtype)
    predicted = cost.totals(cost.rows(config, counts.images, dtype))
    assert counts.forward == predicted.forward > 0
    assert counts.backward == predicted.backward
    params = initialise(config, dtype=dtype)
    assert predicted.parameters == count_parameters(params)


@pytest.mark.parametrize(
    ("a", "b", "flop"),
    [
        ((2, 3), (3, 4), 48),
        ((5, 2, 3), (3, 4), 240),
        ((5, 1, 2, 3), (7, 3, 4), 1680),
        ((2, 1), (1, 4), 16),
        ((2, 3), (3,), 0),
        ((3,), (3, 4), 0),
        ((1, 3), (3, 4), 0),
        ((5, 2, 3), (5, 3, 1), 0),
    ],
)
def test_two_flop_for_each_multiply_add_and_none_for_sums(a, b, flop):
    assert counting.product_flop(a, b) == flop
    tally = []
    y = counting.counted(np.ones(a), tally) @ np.ones(b)
    assert sum(tally) == flop
    assert np.array_equal(y, np.ones(a) @ np.ones(b))


def test_products_of_what_was_computed_and_into_given_arrays_are_counted():
    tally = []
    x, out = counting.counted(np.arange(6.0).reshape(2, 3), tally), np.empty((2, 2))
    np.matmul(x, x.T, out=out)
    assert np.array_equal(out, [[5, 14], [14, 50]])
    x += 1
    y = np.ones((4, 2)) @ (x * 2)[:, :3]
    assert tally == [24, 48]
    assert np.array_equal(y[0], [10, 14, 18])


def test_counting_changes_no_number():
    config, tally = tiny("relative"), []
    params, _ = forward_and_back(config, "float64")
    images = np.random.default_rng(1).normal(size=(2, 8, 12, 2))
    logits, pullback = vit(images, params, config)
    watched, watched_back = vit(counting.counted(images, tally), params, config)
    assert np.array_equal(logits, watched)
    ours, theirs = pullback(logits), watched_back(logits)
    for name, gradient in minivit.flatten(ours[1]).items():
        assert np.array_equal(gradient, minivit.flatten(theirs[1])[name]), name


# --- against what stays alive ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_pullbacks_keep_is_foreseen_to_the_byte(name, dtype):
    config = tiny(name)
    params, pullback = forward_and_back(config, dtype)
    known = {id(memory_owner(array)) for array in minivit.flatten(params).values()}
    owners = {
        id(owner): owner.nbytes
        for owner in map(memory_owner, minivit.list_retained(pullback).values())
    }
    kept = sum(size for owner, size in owners.items() if owner not in known)
    assert kept == cost.totals(cost.rows(config, 3, dtype)).kept


@pytest.mark.parametrize("name", CONFIGS)
def test_each_layer_keeps_what_its_row_says(name):
    config = tiny(name)
    model, B = ViT(config, initialise(config, dtype="float64")), 24
    rows, times = cost.rows(config, B, "float64"), list(cost.measure(model, B, rounds=1))
    assert [row.layer for row in rows] == [layer.layer for layer in times]
    for row, layer in zip(rows, times, strict=True):
        # NumPy hands out arrays below 1 kB from a store of its own, which nobody traces
        assert abs(row.kept - layer.kept) <= 1024 * (2 + 8 * row.layer.startswith("stem")), row
        assert layer.forward > 0 < layer.backward


@pytest.mark.parametrize("name", ["plain", "mean, 2d, hidden", "relative", "stem"])
def test_a_whole_model_keeps_what_the_ledger_says(name):
    config = tiny(name)
    model = ViT(config, initialise(config, dtype="float64"))
    predicted = cost.totals(cost.rows(config, 24, "float64")).kept
    assert cost.kept_by_whole(model, 24) == pytest.approx(predicted, rel=0.01)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_trial_does_the_products_of_its_row(name):
    config, B = tiny(name), 2
    rows, tally = {row.layer: row for row in cost.rows(config, B)}, []
    params = map_tree(lambda p: counting.counted(p, tally), initialise(config))
    for trial in trials(config, params, B):
        tally.clear()
        arrays = [counting.counted(np.ones(s, "f4"), tally) for s in trial.inputs + trial.borrowed]
        y, pullback = trial.f(*arrays)
        forward, y = sum(tally), np.asarray(y)
        assert forward == rows[trial.layer].forward, trial.layer
        pullback(counting.counted(np.ones_like(y), tally))
        assert sum(tally) - forward == rows[trial.layer].backward, trial.layer


def test_layers_are_timed_on_one_thread_of_blas(monkeypatch):
    counts = []

    def look(*_):
        counts.extend(pool["num_threads"] for pool in threadpool_info())
        return cost.Measured("", 1.0, 1.0, 0)

    monkeypatch.setattr(import_module("minivit.cost.measure"), "run", look)
    with threadpool_limits(limits=3, user_api="blas"):
        list(cost.measure(ViT.create(tiny("plain")), 2))
        assert {pool["num_threads"] for pool in threadpool_info()} == {3}
    assert set(counts) == {1}


def test_what_is_borrowed_is_not_counted():
    shape = (40, 50)
    inner = Trial("", lambda x, y: (x * y, lambda dy: (x, y)), (shape,), (shape,))
    assert run(inner, 1, np.dtype("float64")).kept == 40 * 50 * 8


def test_what_was_dropped_is_not_counted():
    assert run(Trial("", layers.relu, ((40, 50),)), 1, np.dtype("float64")).kept == 40 * 50


# --- memory ----------------------------------------------------------------------------------

DEEP = {
    "image_size": 32, "patch_size": 4, "channels": 3, "classes": 10,
    "width": 64, "depth": 5, "heads": 2, "mlp_width": 256,
}  # fmt: skip


@pytest.mark.parametrize(
    ("shards", "threads"), [(None, 2), (1, 1), (2, 2), (8, 1), (8, 2), (3, 3), (12, 3)]
)
def test_the_peak_of_a_step_is_foreseen(shards, threads):
    model = ViT.create(ViTConfig(**DEEP))
    _, peak = cost.measure_step(model, 24, shards, threads)
    predicted = cost.memory(model.config, 24, shards=shards, threads=threads).step
    # threads that are not at their peaks together, as the machine has it, need less
    assert 0.9 / threads * predicted < peak < 1.03 * predicted


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_the_peak_of_a_step_of_large_weights_on_few_tokens_is_foreseen(shards):
    model = ViT.create(ViTConfig(**DEEP | {"image_size": 8, "mlp_width": 2048, "depth": 2}))
    _, peak = cost.measure_step(model, 4, shards, shards)
    predicted = cost.memory(model.config, 4, shards=shards, threads=shards).step
    assert 0.9 / shards * predicted < peak < 1.03 * predicted


def test_the_peak_of_a_hybrid_s_step_is_foreseen():
    model = ViT.create("R+ViT-Ti/16", image_size=64, depth=2, classes=10)
    _, peak = cost.measure_step(model, 8, 4, 1)
    predicted = cost.memory(model.config, 8, shards=4, threads=1).step
    assert 0.85 * predicted < peak < 1.03 * predicted


def test_memory_is_the_sum_of_its_parts():
    config = ViTConfig(**DEEP)
    P = cost.totals(cost.rows(config, 1)).parameters
    m = cost.memory(config, 24, "float64", shards=8, threads=2)
    assert m.parameters == m.gradients == 8 * P
    assert (m.state, m.shards, m.images, m.in_flight) == (16 * P, 8, 3, 2)
    assert m.kept == cost.totals(cost.rows(config, 24, "float64")).kept
    of_shard = memory_of.kept(config, 3, "float64") + memory_of.passing(config, 3, "float64")
    assert m.step == 2 * (of_shard + 8 * P) + 16 * P
    one_each = cost.memory(config, 24, "float64", shards=8, threads=8)
    assert one_each.step == max(8 * (of_shard + 8 * P), 7 * (of_shard + 8 * P) + 16 * P)
    assert m.training == 8 * P + 16 * P + m.step
    assert m.measuring == 8 * P + max(8 * P + m.kept + m.passing, m.step)
    assert cost.memory(config, 24, optimiser="sgd").state == 4 * P
    assert cost.memory(config, 2, shards=9, threads=2).shards == 2  # no shard is empty


@pytest.mark.parametrize("optimiser", minivit.training.OPTIMISERS)
def test_the_state_of_each_optimiser(optimiser):
    model = ViT.create(tiny("plain"))
    state = minivit.training.OPTIMISERS[optimiser](model.params).state
    predicted = cost.memory(model.config, 1, optimiser=optimiser).state
    assert sum(vector.nbytes for vector in state.values()) == predicted


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_is_cut_as_the_model_itself_would(dtype):
    model = ViT.create("ViT-Ti/4", image_size=32, classes=10, dtype=dtype)
    for batch in (1, 7, 64, 200):
        expected = model.shard_count(batch, 2)
        assert cost.memory(model.config, batch, dtype, threads=2).shards == expected


def test_a_hollow_model_has_no_memory():
    params = minivit.flatten(memory_of.hollow(ViTConfig.named("ViT-H/14"), "float32").params)
    assert sum(array.size for array in params.values()) == 632_045_800
    assert sum(memory_owner(array).nbytes for array in params.values()) < 10_000


def test_the_largest_batch_that_fits():
    def predict(batch):
        return cost.memory(ViTConfig(**DEEP), batch, threads=2).measuring

    needs = [predict(batch) for batch in range(1, 60)]
    for available in (needs[0], 20_000_000, needs[40], needs[50] - 1):
        most = cost.fits(available, 10**30, predict)
        assert needs[most - 1] <= available < needs[most]
    assert cost.fits(needs[0] - 1, 64, predict) == 0
    assert cost.fits(needs[40], 5, predict) == 5


def test_memory_that_is_left(tmp_path, monkeypatch):
    meminfo, group = tmp_path / "meminfo", tmp_path / "group"
    monkeypatch.setattr(memory_of, "MEMINFO", meminfo)
    monkeypatch.setattr(memory_of, "CGROUP", group)
    monkeypatch.setattr(memory_of.os, "sysconf_names", {}, raising=False)
    assert cost.available_memory() is None
    meminfo.write_text("MemTotal:  9 kB\nMemAvailable:  5 kB\nHugePages_Total:  0\n")
    assert cost.available_memory() == 5 * 1024
    group.mkdir()
    for name, text in {"max": "max\n", "current": "3000\n", "stat": "anon 1\ninactive_file 700\n"
                       }.items():  # fmt: skip
        (group / f"memory.{name}").write_text(text)
    assert cost.available_memory() == 5 * 1024
    (group / "memory.max").write_text("4000\n")
    assert cost.available_memory() == 4000 - 3000 + 700


# --- the table -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "-"), (1, "1 B"), (999, "999 B"), (1000, "1.00 kB"), (17_563_828_224, "17.6 GB"),
        (9_994, "9.99 kB"), (9_996, "10.0 kB"), (99_949, "99.9 kB"), (99_960, "100 kB"),
        (999_499, "999 kB"), (999_600, "1.00 MB"), (1_234_567_890, "1.23 GB"), (5e15, "5.00 PB"),
        (10**27, "1000 YB"),
    ],
)  # fmt: skip
def test_numbers_for_people(number, text):
    assert cost.figure(number, "B") == text


def test_a_number_without_a_unit():
    assert [cost.figure(n) for n in (12, 1234)] == ["12", "1.23 k"]


def test_totals_are_the_sums_of_the_lines():
    rows = [formulas.Row("a", 1, 2, 3, 4, 5), formulas.Row("b", 10, 1, 1, 1, 1)]
    assert cost.totals(rows) == formulas.Row("total", 1, 12, 13, 14, 15)
    assert rows[1].together == formulas.Row("b", 10, 10, 10, 10, 10)
    assert rows[1].backward == 2


# --- the command -----------------------------------------------------------------------------


def run_command(words):
    """The exit status of `python -m minivit cost` with these words."""
    return main(["cost", *words.split()])


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


SMALL = "ViT-Ti/4 --image-size 16 --classes 10 --depth 2 --width 64 --heads 2 --mlp-width 96"


def test_the_table_of_vit_b_16(capsys):
    assert run_command("") == 0
    text = capsys.readouterr().out
    assert run_command("ViT-B/16 --image-size 224 --batch-size 64") == 0
    assert capsys.readouterr().out == text
    lines = text.splitlines()
    assert lines[0] == (
        "ViT-B/16, 1,000 classes, float32; images 64 x 224 x 224 x 3, 197 tokens each"
    )
    assert "86,567,656" in text
    assert "forward of an image: 35.1 GFLOP, or 17.6 GMAC; step of the batch: 6.74 TFLOP" in text
    table = [line for line in lines if line.endswith(("B", "-", "kept"))][: lines.index("") + 18]
    assert len({len(line) for line in table[:20]}) == 1  # aligned
    assert max(map(len, lines)) <= 100
    found = next(line for line in lines if line.startswith("attention: softmax x 12"))
    assert found.split()[-4:] == ["358", "M", "1.43", "GB"]


def test_the_file_holds_the_table(tmp_path, capsys):
    path = tmp_path / "cost.csv"
    assert run_command(f"R50+ViT-B/16 --batch-size 3 --csv {path}") == 0
    lines = read(path)
    total = cost.totals(cost.rows(ViTConfig.named("R50+ViT-B/16"), 3))
    assert sum(int(line["parameters"]) for line in lines) == 98_659_112
    assert sum(int(line["forward_flop"]) for line in lines) == total.forward
    assert sum(int(line["backward_flop"]) for line in lines) == 2 * total.forward
    assert sum(int(line["kept_bytes"]) for line in lines) == total.kept
    assert lines[-1]["layer"] == "head"
    assert [line["times"] for line in lines if line["layer"] == "norm1"] == ["12"]


def test_measured_beside_predicted(tmp_path, capsys):
    path = tmp_path / "cost.csv"
    assert run_command(f"{SMALL} --batch-size 4 --threads 2 --measure --csv {path}") == 0
    text = capsys.readouterr().out
    config = ViTConfig.named(
        "ViT-Ti/4", image_size=16, classes=10, depth=2, width=64, heads=2, mlp_width=96
    )
    flop = cost.totals(cost.rows(config, 2)).forward
    assert f"counted in 2 images: {flop:,} FLOP forward, {2 * flop:,} backward;" in text
    assert f"predicted {flop:,} and {2 * flop:,}" in text
    assert "a step, in 2 shards on 2 threads: " in text
    lines = read(path)
    assert len(lines) == len(cost.rows(config, 4))
    for line in lines:
        assert float(line["forward_seconds"]) > 0 < float(line["backward_seconds"])
        difference = abs(int(line["measured_kept_bytes"]) - int(line["kept_bytes"]))
        assert difference <= 1024 * int(line["times"])


def test_without_classes_no_step_is_measured(capsys):
    assert run_command(f"{SMALL.replace('classes 10', 'classes 0')} --batch-size 2 --measure") == 0
    text = capsys.readouterr().out
    assert "no classifier" in text
    assert "a step, in one piece: " not in text
    assert "shards on" not in text


def test_what_does_not_fit_is_refused_with_a_batch_that_does(monkeypatch, capsys):
    config = ViTConfig.named("ViT-B/16")
    memory = partial(cost.memory, config, threads=2)
    monkeypatch.setattr(cost, "available_memory", lambda: memory(25).measuring)
    assert run_command("--batch-size 64 --threads 2 --measure") == 1
    out, err = capsys.readouterr()
    assert "86,567,656" in out  # the prediction comes all the same
    needed, free = (cost.figure(memory(batch).measuring, "B") for batch in (64, 25))
    assert err == (
        f"minivit: error: --measure would need {needed} of memory, of which {free} are free: "
        "--batch-size 25 fits\n"
    )
    monkeypatch.setattr(cost, "available_memory", lambda: 1000)
    assert run_command("--batch-size 64 --measure") == 1
    assert "not even one image fits" in capsys.readouterr().err


def test_float16_is_predicted_but_not_measured(capsys):
    assert run_command("--dtype float16 --measure") == 1
    out, err = capsys.readouterr()
    assert "parameters, float16" in out
    assert err.startswith("minivit: error: NumPy has no fast products of float16")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ViT-Q/16", "unknown model 'ViT-Q/16'"),
        ("--image-size 225", "cannot be cut into patches"),
        ("--heads 7", "cannot be shared among 7 heads"),
        ("--batch-size 0", "must be a whole number from 1 up"),
        ("--classes -1", "must be a whole number from 1 up"),
        ("--dtype int8", "invalid choice"),
    ],
)
def test_what_makes_no_model_is_bad_usage(words, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_command(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_every_field_that_costs_something_can_be_said():
    known = vars(build_parser().parse_args(["cost"]))
    free = {"norm_eps", "position_std", "preprocessing"}
    assert {field.name for field in dataclasses.fields(ViTConfig)} - free <= set(known)


@pytest.mark.parametrize(
    "words",
    [
        "--image-size 32x48", "--classes 7", "--channels 1", "--patch-size 8", "--width 24",
        "--depth 3", "--heads 4", "--mlp-width 30", "--hidden-head 5", "--positions none",
        "--pooling mean", "--dropout 0.1", "--drop-path 0.1", "--no-qkv-bias", "--no-patch-bias",
        "--stem 1 --stem-width 32 --patch-size 1", "--dtype float64", "--batch-size 3",
        "--optimiser sgd", "--shards 2",
    ],
)  # fmt: skip
def test_options_change_the_table(words, capsys):
    base = "ViT-Ti/16 --image-size 32 --classes 10 --depth 2 --batch-size 4 --threads 1 "
    base += "--width 48 --heads 3 --mlp-width 40"
    run_command(base)
    before = capsys.readouterr().out.splitlines()[1:]
    run_command(f"{base} {words}")
    assert capsys.readouterr().out.splitlines()[1:] != before
