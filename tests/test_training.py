"""The training loop: recipe, evaluation, EMA, progress display, divergence, the baseline."""

import io
import math
import re
import sys

import numpy as np
import pytest
from helpers.models import Unreadable, few_digits, same_bits, tiny_model
from helpers.trainings import STEPS, interrupt, make_recipe, new_model, record_steps
from tqdm import tqdm

from minivit import ViT, cost, data, weights
from minivit.data import split_validation
from minivit.parallel import map_shards
from minivit.training import (
    AdamW,
    Recipe,
    StepOptions,
    baseline,
    evaluate,
    fit_logistic_regression,
    loop,
    plot_training,
    read_log,
    read_progress,
    schedule_learning_rate,
    train,
)
from minivit.training.figure import explain_loss
from minivit.training.log import STEP_COLUMNS
from minivit.tree import pack

DIGITS = few_digits()


# --- the recipe ----------------------------------------------------------------------------------


INVALID = {
    "must be at least 1, not": [
        ("epochs", 0), ("batch_size", 0), ("shards", 0), ("grad_accumulation", 0),
    ],
    "must be at least 0, not": [("shift", -1), ("seed", -1), ("randaugment", -1)],
    "must be finite and not negative:": [
        ("learning_rate", -1e-3), ("learning_rate", math.nan), ("learning_rate", math.inf),
        ("warmup", -1), ("weight_decay", -1), ("grad_clip", -1), ("label_smoothing", -0.1),
        ("mixup", -0.1), ("cutmix", math.inf), ("ema", -0.5),
    ],
    "must be at most 100, not": [("randaugment", 101), ("randaugment", 10**9)],
    "must be at most 1,000,000, not": [("epochs", 10**7), ("warmup", 1e7), ("shift", 10**7)],
    "must be at most 10^18, not": [("batch_size", 10**19), ("seed", 10**19), ("shards", 10**19)],
    "must be an integer, not": [("epochs", 1.5), ("seed", "3"), ("shards", 2.0)],
    "must be below 1, not": [("label_smoothing", 1.0), ("ema", 1.0), ("validation", 1.0)],
    "must be from 0 to 10, not": [("randaugment_magnitude", x) for x in (-1.0, 10.5, math.nan)],
    "must be from 0 to 1, not": [("random_erasing", -0.1), ("random_erasing", 1.5)],
}  # fmt: skip


@pytest.mark.parametrize("message", INVALID)
def test_an_invalid_recipe_is_rejected(message):
    for name, value in INVALID[message]:
        with pytest.raises(ValueError, match=f"^{re.escape(f'{name} {message} {value}')}$"):
            Recipe(**{name: value})


def test_numbers_of_numpy_are_accepted_and_saved(tmp_path, monkeypatch):
    recipe = make_recipe(epochs=np.int64(2), seed=np.uint8(3), learning_rate=np.float64(0.01))
    interrupt(monkeypatch, "evaluate", 2)
    with pytest.raises(KeyboardInterrupt):
        train(new_model(), DIGITS, recipe, tmp_path)
    assert read_progress(tmp_path).recipe == recipe
    assert type(recipe.epochs) is int


def test_a_long_number_is_shortened_in_the_message():
    with pytest.raises(ValueError, match=r"^epochs must be at most 1,000,000, not 10{39}$"):
        Recipe(epochs=10**400)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # as the command line does
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"learning_rate": 1e39},
            "the learning rate of 1e+39 may be too high. Pass a smaller --lr",
        ),
        (
            {"weight_decay": 1e30},
            "weight decay subtracts 1e+28 times the weights in each step. Pass a smaller "
            "--weight-decay",
        ),
    ],
)
def test_the_error_of_a_training_that_diverges_names_the_cause(tmp_path, fields, reason):
    recipe = make_recipe(**{"grad_clip": 0.0} | fields)
    message = rf"^the .*loss is .* in epoch 1: {re.escape(reason)}$"
    with pytest.raises(FloatingPointError, match=message):
        train(new_model(), DIGITS, recipe, tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_error_of_a_diverging_initial_model_does_not_blame_the_learning_rate(tmp_path):
    model = new_model()
    model.params["head"]["bias"][0] = np.inf
    message = "in epoch 1: it is not finite even for the initial weights"
    with pytest.raises(FloatingPointError, match=message):
        train(model, DIGITS, make_recipe(), tmp_path)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_at_least_1(tmp_path, threads):
    message = f"threads must be at least 1, not {threads}"
    for function in (
        lambda: train(new_model(), DIGITS, make_recipe(), tmp_path, threads=threads),
        lambda: StepOptions(threads=threads),
        lambda: data.FolderImages(["1.png"], (8, 8), 1, threads=threads),
        lambda: new_model().choose_shard_count(8, threads),
        lambda: list(map_shards(len, [(), ()], threads)),
        lambda: cost.memory(new_model().config, 8, threads=threads),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            function()


def test_an_unknown_optimiser_or_schedule_is_rejected():
    with pytest.raises(ValueError, match="unknown optimiser 'adam': choose adamw, sgd"):
        Recipe(optimiser="adam")
    with pytest.raises(ValueError, match="unknown schedule 'step': choose cosine, linear, const"):
        Recipe(schedule="step")


# --- the loop ------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_returns_the_last_score(tmp_path):
    model = new_model()
    before = evaluate(model, DIGITS.images, DIGITS.labels)
    score = train(model, DIGITS, make_recipe(epochs=3), tmp_path)
    first, *_, last = read_log(tmp_path / "log.csv")
    assert evaluate(model, DIGITS.images, DIGITS.labels).loss < before.loss
    assert last["loss"] < first["loss"]
    assert score == evaluate(model, DIGITS.held_out_images, DIGITS.held_out_labels)
    progress = read_progress(tmp_path)
    assert progress.complete
    assert score == (progress.test_loss, progress.test_accuracy)
    _, *validation = split_validation(DIGITS, 0.1)
    assert (last["validation_loss"], last["validation_accuracy"]) == evaluate(model, *validation)


def test_the_held_out_images_are_evaluated_once_at_the_end(tmp_path, monkeypatch):
    evaluated = []

    def record(model, images, labels):
        evaluated.append(len(labels))
        return evaluate(model, images, labels)

    monkeypatch.setattr(loop, "evaluate", record)
    train(new_model(), DIGITS, make_recipe(epochs=3), tmp_path)
    assert evaluated == [10, 10, 10, 40]
    evaluated.clear()
    train(new_model(), DIGITS, make_recipe(epochs=3, validation=0), tmp_path)
    assert evaluated == [40]
    for row in read_log(tmp_path / "log.csv"):
        assert math.isnan(row["validation_loss"])
        assert math.isnan(row["validation_accuracy"])


def test_the_validation_images_are_not_used_for_training(tmp_path, monkeypatch):
    steps = record_steps(tmp_path, monkeypatch, epochs=1, shift=0, validation=0.3)
    rest, images, labels = split_validation(DIGITS, 0.3)
    trained = np.concatenate([step.images for step in steps])
    assert len(trained) == len(rest.images) == 97 - len(labels)
    ids = {image.tobytes() for image in trained}
    assert not ids & {image.tobytes() for image in images[:]}
    assert ids == {image.tobytes() for image in rest.images[:]}


def test_a_score_is_the_mean_cross_entropy_and_the_accuracy():
    model = tiny_model("float32")
    loss, accuracy = evaluate(model, DIGITS.images, DIGITS.labels)
    logits = model(DIGITS.images).astype(float)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    correct = [p[i].argmax() == label for i, label in enumerate(DIGITS.labels)]
    losses = [-math.log(p[i, label]) for i, label in enumerate(DIGITS.labels)]
    assert accuracy == pytest.approx(sum(correct) / 97)
    assert loss == pytest.approx(sum(losses) / 97, rel=1e-5)


def test_every_step_follows_the_recipe_and_the_logs_have_its_results(tmp_path, monkeypatch):
    steps = record_steps(tmp_path, monkeypatch, epochs=2)
    assert [step.seed for step in steps] == [(3, t) for t in range(10)]
    assert {step.options for step in steps} == {StepOptions(label_smoothing=0.1, shards=3)}
    for row, epoch in zip(read_log(tmp_path / "log.csv"), (steps[:5], steps[5:]), strict=True):
        mean = sum(step.loss * len(step.labels) for step in epoch) / 87
        assert row["loss"] == pytest.approx(mean, rel=1e-12)
        assert row["accuracy"] == sum(step.correct for step in epoch) / 87
    rows = read_log(tmp_path / "steps.csv", STEP_COLUMNS)
    assert [(row["step"], row["epoch"]) for row in rows] == [(t, 1 + t // 6) for t in range(1, 11)]
    for row, step in zip(rows, steps, strict=True):
        assert row["loss"] == step.loss
        assert row["accuracy"] == step.correct / len(step.labels)
        t = row["step"] - 1
        assert row["learning_rate"] == schedule_learning_rate(t, 10, 0.01, warmup=STEPS)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("grad_clip", [0.001, 0])
def test_the_optimiser_gets_clipped_gradients_and_the_scheduled_learning_rate(
    tmp_path, monkeypatch, grad_clip
):
    calls, update = [], AdamW.update

    def record(self, gradient, learning_rate, threads):
        calls.append((np.linalg.norm(gradient), learning_rate, self.weight_decay))
        update(self, gradient, learning_rate, threads)

    monkeypatch.setattr(AdamW, "update", record)
    recipe = make_recipe(epochs=2, grad_clip=grad_clip, weight_decay=0.25)
    train(new_model(), DIGITS, recipe, tmp_path)
    norms, learning_rates, weight_decays = zip(*calls, strict=True)
    if grad_clip:
        assert norms == pytest.approx([0.001] * 10, rel=1e-4)
    else:
        assert min(norms) > 0.01
    expected = tuple(schedule_learning_rate(t, 10, 0.01, warmup=STEPS) for t in range(10))
    assert learning_rates == expected
    assert set(weight_decays) == {0.25}


def test_the_number_of_shards_is_chosen_for_a_part_of_the_batch(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(ViT, "choose_shard_count", lambda self, *args: calls.append(args) or 2)
    recipe = make_recipe(epochs=1, shards=None, grad_accumulation=3)
    steps = record_steps(tmp_path, monkeypatch, **recipe.to_dict())
    assert calls[0] == (7, None)
    assert {step.options.shards for step in steps} == {2}


# --- the figure ----------------------------------------------------------------------------------


def test_the_figure_of_a_run_has_its_recipe_and_its_result(tmp_path):
    recipe = make_recipe(epochs=2, label_smoothing=0.2, shift=0)
    score = train(new_model(), DIGITS, recipe, tmp_path)
    figure = plot_training(tmp_path, baseline=0.9)
    assert figure.get_suptitle() == "ViT with D=8, L=2, h=2, M=12, P=4 on the digits, seed 3"
    note = figure.get_supxlabel().replace("\n", " ")
    assert "measured with label smoothing. The validation curves" in note
    losses, errors, _ = figure.axes
    targets = np.array([0.82, *[0.02] * 9])
    bound = -(targets * np.log(targets)).sum()
    assert losses.get_lines()[-1].get_ydata() == pytest.approx([bound, bound])
    held_out, baseline = errors.get_lines()[-2:]
    assert held_out.get_ydata() == pytest.approx([100 * (1 - score.accuracy)])
    assert baseline.get_ydata() == pytest.approx([10, 10])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label_smoothing": 0, "shift": 0}, None),
        ({"label_smoothing": 0, "shift": 2}, "with augmentation."),
        ({"validation": 0}, None),
        ({"shift": 0, "mixup": 0.2}, "with label smoothing and augmentation."),
    ],
)
def test_the_note_names_what_raises_the_training_loss(options, words):
    note = explain_loss(make_recipe(**options))
    assert words in note if words else note == ""


def test_an_interrupted_run_and_an_old_log_can_be_plotted(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, "batch_gradients", 2 * STEPS + 1)
        with pytest.raises(KeyboardInterrupt):
            train(new_model(), DIGITS, make_recipe(), tmp_path)
    assert len(plot_training(tmp_path).axes[0].get_lines()[0].get_xdata()) == 2
    (tmp_path / "model.npz").unlink()
    assert plot_training(tmp_path).get_suptitle() == ""
    with pytest.raises(FileNotFoundError):
        plot_training(tmp_path / "none")


# --- EMA -----------------------------------------------------------------------------------------


def test_the_averaged_weights_are_evaluated_and_saved(tmp_path, monkeypatch):
    vectors, states, update, save = [], [], loop._update, loop.save_checkpoint

    def record_update(run, *args):
        update(run, *args)
        vectors.append(run.optimiser.parameters.vector.astype(float))

    def record_save(run):
        save(run)
        states.append(weights.load_training(tmp_path / "model.npz"))

    monkeypatch.setattr(loop, "_update", record_update)
    monkeypatch.setattr(loop, "save_checkpoint", record_save)
    model = new_model()
    average = pack(new_model().params).vector.astype(float)
    score = train(model, DIGITS, make_recipe(epochs=2, ema=0.8), tmp_path)
    for t, vector in enumerate(vectors, start=1):
        d = min(0.8, (1 + t) / (10 + t))
        average = d * average + (1 - d) * vector
    saved = ViT.load(tmp_path / "model.npz")
    assert evaluate(saved, *DIGITS[3:5]) == score
    np.testing.assert_allclose(pack(saved.params).vector, average, rtol=0, atol=2e-6)
    assert abs(vectors[-1] - average).max() > 1e-3
    assert same_bits(model.params, saved.params)
    assert [state.keys() for state in states] == [
        *[{"progress", "log", "m", "v", "running"}] * 2,
        {"progress", "log"},
    ]
    assert np.array_equal(states[1]["running"], vectors[STEPS - 1])


# --- the progress display ------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("delay", "shown"), [(0, True), (1000, False)])
def test_a_terminal_shows_a_step_bar_in_a_long_epoch(tmp_path, monkeypatch, delay, shown):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(loop, "STEP_BAR_DELAY", delay)
    train(new_model(), DIGITS, make_recipe(epochs=1), tmp_path)
    text = terminal.getvalue()
    assert ("step" in text) == (f"0/{STEPS}" in text) == shown
    assert "1/1" in text
    assert "accuracy" in text
    assert "epoch 1/1:" not in text


def test_the_step_bar_shows_the_running_loss_and_the_images_per_second(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda bar, text, refresh: shown.append(text))
    steps = record_steps(tmp_path, monkeypatch, epochs=1)
    *of_steps, of_epoch = shown
    total = images = 0
    for step, text in zip(steps, of_steps, strict=True):
        total, images = total + step.loss * len(step.labels), images + len(step.labels)
        match = re.fullmatch(r"loss (\d\.\d{4}), (\d+) images/s", text)
        assert float(match[1]) == pytest.approx(total / images, abs=1e-4)
        assert int(match[2]) > 0
    assert of_epoch.startswith(f"loss {total / images:.4f}, accuracy ")
    assert "validation loss" in of_epoch


def test_without_a_terminal_each_epoch_prints_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "STEP_BAR_DELAY", 0)
    train(new_model(), DIGITS, make_recipe(epochs=2), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]


# --- divergence ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize(("batch_size", "learning_rate"), [(20, 1e9), (5000, 1e38), (5000, 1e39)])
def test_a_diverging_training_stops_and_keeps_its_last_checkpoint(
    tmp_path, optimiser, batch_size, learning_rate
):
    # With one step per epoch, the loss of the step is still that of the initial parameters, and
    # only the held-out loss shows the divergence.
    model = tiny_model("float32")
    recipe = make_recipe(
        epochs=2, optimiser=optimiser, batch_size=batch_size, learning_rate=learning_rate,
        warmup=0, weight_decay=0, grad_clip=0,
    )  # fmt: skip
    message = r"loss is (nan|inf) in epoch 1: the learning rate of \S+ may be too high"
    with pytest.raises(FloatingPointError, match=message):
        train(model, DIGITS, recipe, tmp_path)
    assert same_bits(ViT.load(tmp_path / "model.npz").params, tiny_model("float32").params)
    assert read_log(tmp_path / "log.csv") == []
    assert read_progress(tmp_path).epoch == 0


# --- logistic regression -------------------------------------------------------------------------


def test_logistic_regression_classifies_the_digits(monkeypatch):
    digits = data.load_digits()
    assert 0.96 <= fit_logistic_regression(digits) <= 1
    wrong = digits._replace(held_out_labels=(digits.held_out_labels + 1) % 10)
    assert fit_logistic_regression(wrong, steps=20) < 0.3


def test_logistic_regression_on_sorted_data_in_batches_is_as_accurate(monkeypatch):
    digits, sizes, linear = data.load_digits(), [], baseline.linear
    by_class = np.argsort(digits.labels)
    sorted_digits = digits._replace(images=digits.images[by_class], labels=digits.labels[by_class])
    monkeypatch.setattr(
        baseline, "linear", lambda x, **p: (sizes.append(len(x)), linear(x, **p))[1]
    )
    monkeypatch.setattr(baseline, "BATCH_SIZE", 100)
    assert 0.96 <= fit_logistic_regression(sorted_digits) <= 1
    assert set(sizes[:-1]) == {95, 96}


def test_logistic_regression_samples_a_large_data_set(monkeypatch):
    digits, reads = data.load_digits(), []

    class RecordedImages(Unreadable):
        def read(self, indices):
            reads.append(indices)
            return super().read(indices)

    dataset = digits._replace(images=RecordedImages(digits.images, np.arange(100)))
    monkeypatch.setattr(baseline, "MAX_SCALARS", 1200 * 64)
    assert 0.95 <= fit_logistic_regression(dataset) <= 1
    (indices,) = reads
    assert len(set(indices)) == 1200
    assert indices.max() - indices.min() > 1400  # from the entire data set, which may be sorted
    monkeypatch.setattr(baseline, "MAX_SCALARS", 999 * 64)
    assert fit_logistic_regression(dataset) is None
    assert len(reads) == 1
