"""Few-shot evaluation: least squares in closed form, against the normal equations written out."""

import numpy as np
import pytest

from minivit.training import evaluate_few_shot, fewshot
from minivit.training.fewshot import fit_least_squares, sample_shots, solve_dual, solve_primal


def problem(n, D, K=3, seed=0):
    """Features of very different sizes, and labels that they tell in part."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % K
    features = rng.normal(size=(n, D)) * rng.uniform(0.1, 30, D) + 50 * rng.normal(size=D)
    features += np.eye(K, D)[labels]
    return features, labels


def normal_equations(features, labels, K, others, l2=2.0**10):
    """The scores of `others`, by the definition."""
    mean, deviation = features.mean(0), features.std(0) + 1e-5
    X = np.column_stack([(features - mean) / deviation, np.full(len(features), 100.0)])
    Y = np.full((len(labels), K), -1.0)
    Y[np.arange(len(labels)), labels] = 1
    W = np.linalg.solve(X.T @ X + l2 * np.eye(X.shape[1]), X.T @ Y)
    return np.column_stack([(others - mean) / deviation, np.full(len(others), 100.0)]) @ W


def test_the_constants_are_the_authors():
    assert fewshot.SHOTS == (1, 5, 10, 25)
    assert len(fewshot.SEEDS) == 3
    assert (fewshot.L2, fewshot.CONSTANT) == (1024, 100)


# --- solving ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "D"), [(3, 9), (8, 9), (9, 9), (10, 9), (40, 9), (1, 4), (4, 1)])
@pytest.mark.parametrize("l2", [0.5, 1024.0])
def test_both_ways_solve_the_normal_equations(n, D, l2):
    rng = np.random.default_rng(n)
    X, Y = rng.normal(size=(n, D)), rng.normal(size=(n, 3))
    expected = np.linalg.solve(X.T @ X + l2 * np.eye(D), X.T @ Y)
    for solve in (solve_primal, solve_dual):
        np.testing.assert_allclose(solve(X, Y, l2), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("n", "D"), [(6, 20), (20, 20), (21, 20), (22, 20), (90, 20)])
def test_scores_are_those_of_the_definition(n, D):
    features, labels = problem(n, D)
    others, _ = problem(15, D, seed=1)
    scores = fit_least_squares(features, labels, 3)(others)
    expected = normal_equations(features, labels, 3, others)
    assert scores.shape == (15, 3)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("n", "name"), [(20, "by_points"), (21, "by_features")])
def test_the_smaller_matrix_is_taken_the_constant_counted(monkeypatch, n, name):
    real, used = getattr(fewshot, name), []

    def seen(X, Y, l2):
        used.append(X.shape)
        return real(X, Y, l2)

    monkeypatch.setattr(fewshot, name, seen)
    fit_least_squares(*problem(n, 20), 3)
    assert used == [(n, 21)]


def test_permuted_classes_give_permuted_scores():
    features, labels = problem(30, 8, K=5)
    order = np.array([3, 0, 4, 1, 2])  # class c is now called order[c]
    scores = fit_least_squares(features, labels, 5)(features)
    renamed = fit_least_squares(features, order[labels], 5)(features)
    np.testing.assert_allclose(renamed[:, order], scores, rtol=0, atol=1e-12)


def test_neither_scale_nor_offset_of_a_feature_matters():
    features, labels = problem(30, 8)
    others, _ = problem(9, 8, seed=1)
    scores = fit_least_squares(features, labels, 3)(others)
    again = fit_least_squares(features * 1000 - 70, labels, 3)(others * 1000 - 70)
    np.testing.assert_allclose(again, scores, rtol=0, atol=1e-5)


def test_a_feature_that_never_changes_says_nothing():
    features, labels = problem(30, 8)
    scores = fit_least_squares(features, labels, 3)(features)
    constant = np.column_stack([features, np.full(30, 7.0)])
    np.testing.assert_allclose(
        fit_least_squares(constant, labels, 3)(constant), scores, rtol=0, atol=1e-12
    )


def test_float32_features_are_solved_for_in_float64():
    features, labels = problem(30, 8)
    features = features.astype(np.float32)
    scores = fit_least_squares(features, labels, 3)(features)
    assert scores.dtype == np.float64
    assert np.array_equal(scores, fit_least_squares(features.astype(float), labels, 3)(features))


# --- the images that are learned from --------------------------------------------------------


@pytest.mark.parametrize("shots", [1, 2, 7])
def test_so_many_images_of_each_class_are_chosen(shots):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 7))
    chosen = sample_shots(labels, shots, seed=5)
    assert labels[chosen].tolist() == np.repeat(np.arange(4), shots).tolist()
    assert len(set(chosen)) == 4 * shots


def test_more_shots_only_add_and_another_seed_draws_others():
    labels = np.arange(400) % 4
    two, nine = sample_shots(labels, 2, seed=0), sample_shots(labels, 9, seed=0)
    assert set(two) < set(nine)
    assert np.array_equal(nine, sample_shots(labels, 9, seed=0))
    assert set(nine) != set(sample_shots(labels, 9, seed=1))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0, 0, 1, 1], "class 1 has 2 images, too few for 3 shots"),
        ([0, 0, 0, 2, 2, 2], "class 1 has 0 images, too few for 3 shots"),
    ],
)
def test_a_class_with_too_few_images_is_named(labels, message):
    with pytest.raises(ValueError, match=message):
        sample_shots(np.array(labels), 3, seed=0)


# --- the whole -------------------------------------------------------------------------------


def halves(n, D):
    """Features, labels, and other features with theirs, of one kind."""
    features, labels = problem(n, D)
    features[np.arange(n), labels] += 20
    return features[: n // 2], labels[: n // 2], features[n // 2 :], labels[n // 2 :]


def test_accuracies_are_those_of_the_definition_for_each_draw():
    features, labels, others, answers = halves(500, 20)
    found = evaluate_few_shot(features, labels, others, answers, shots=(1, 4, 30), seeds=(0, 5))
    for row, shots in zip(found, (1, 4, 30), strict=True):
        for accuracy, seed in zip(row, (0, 5), strict=True):
            chosen = sample_shots(labels, shots, seed)
            scores = normal_equations(features[chosen], labels[chosen], 3, others)
            assert accuracy == np.mean(scores.argmax(1) == answers)
    assert len(np.unique(found)) > 3


def test_only_the_chosen_images_are_looked_at():
    """Neither the mean nor the deviation, nor anything else, is of the rest or of the test."""
    features, labels, others, answers = halves(140, 6)
    before = evaluate_few_shot(features, labels, others, answers, shots=(5,), seeds=(2,))
    rest = np.setdiff1d(np.arange(70), sample_shots(labels, 5, seed=2))
    features[rest] = 1e6 * np.random.default_rng(3).normal(size=(len(rest), 6))
    assert np.array_equal(evaluate_few_shot(features, labels, others, answers, (5,), (2,)), before)
    alone = [
        evaluate_few_shot(features, labels, others[i : i + 1], answers[i : i + 1], (5,), (2,))
        for i in range(70)
    ]
    assert np.mean(alone) == pytest.approx(before[0, 0])


def test_what_is_plain_is_learned_from_one_image_and_noise_is_not():
    labels = np.arange(400) % 4
    noise = np.random.default_rng(0).normal(size=(400, 12))
    plain = 50 * np.eye(4)[labels] + noise[:, :4]
    assert evaluate_few_shot(plain, labels, plain, labels, shots=(1,)).min() == 1
    at_random = evaluate_few_shot(noise[:200], labels[:200], noise[200:], labels[200:], shots=(25,))
    assert 0.1 < at_random.mean() < 0.4


@pytest.mark.parametrize(
    "shapes", [((5, 3), 5, (4, 2), 4), ((5, 3), 4, (4, 3), 4), ((5, 3), 5, (4, 3), 5),
               ((5, 3, 1), 5, (4, 3, 1), 4)],
    ids=str,
)  # fmt: skip
def test_shapes_that_do_not_belong_together_are_refused(shapes):
    features, n, test_features, m = shapes
    arrays = np.zeros(features), np.zeros(n, int), np.zeros(test_features), np.zeros(m, int)
    with pytest.raises(ValueError, match="features"):
        evaluate_few_shot(*arrays, shots=(1,))
