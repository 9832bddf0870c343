"""Few-shot evaluation: closed-form least squares, compared with the normal equations."""

import numpy as np
import pytest

from minivit.training import evaluate_few_shot, fewshot
from minivit.training.fewshot import fit_least_squares, sample_shots, solve_dual, solve_primal


def problem(n, D, K=3, seed=0):
    """Return features of very different magnitudes that are correlated with their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % K
    features = rng.normal(size=(n, D)) * rng.uniform(0.1, 30, D) + 50 * rng.normal(size=D)
    return features + np.eye(K, D)[labels], labels


def solve_normal_equations(features, labels, K, test_features, l2=2.0**10):
    """Return the scores of `test_features` by the definition."""
    mean, std = features.mean(0), features.std(0) + 1e-5
    X = np.column_stack([(features - mean) / std, np.full(len(features), 100.0)])
    Y = np.full((len(labels), K), -1.0)
    Y[np.arange(len(labels)), labels] = 1
    W = np.linalg.solve(X.T @ X + l2 * np.eye(X.shape[1]), X.T @ Y)
    test = np.column_stack([(test_features - mean) / std, np.full(len(test_features), 100.0)])
    return test @ W


@pytest.mark.parametrize(("n", "D"), [(3, 9), (8, 9), (9, 9), (10, 9), (40, 9), (1, 4), (4, 1)])
@pytest.mark.parametrize("l2", [0.5, 1024.0])
def test_both_forms_solve_the_normal_equations(n, D, l2):
    rng = np.random.default_rng(n)
    X, Y = rng.normal(size=(n, D)), rng.normal(size=(n, 3))
    expected = np.linalg.solve(X.T @ X + l2 * np.eye(D), X.T @ Y)
    for solve in (solve_primal, solve_dual):
        np.testing.assert_allclose(solve(X, Y, l2), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("n", "D", "name"),
    [(6, 20, "dual"), (20, 20, "dual"), (21, 20, "primal"), (90, 20, "primal")],
)
def test_scores_equal_the_definition_and_the_smaller_matrix_is_used(monkeypatch, n, D, name):
    solve, shapes = getattr(fewshot, f"solve_{name}"), []
    record = lambda X, Y, l2: (shapes.append(X.shape), solve(X, Y, l2))[1]  # noqa: E731
    monkeypatch.setattr(fewshot, f"solve_{name}", record)
    (features, labels), (test_features, _) = problem(n, D), problem(15, D, seed=1)
    scores = fit_least_squares(features, labels, 3)(test_features)
    expected = solve_normal_equations(features, labels, 3, test_features)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-11)
    assert shapes == [(n, D + 1)]


def test_scores_are_invariant_to_scale_offset_and_constant_features():
    (features, labels), (test_features, _) = problem(30, 8), problem(9, 8, seed=1)
    scores = fit_least_squares(features, labels, 3)(test_features)
    affine = fit_least_squares(features * 1000 - 70, labels, 3)(test_features * 1000 - 70)
    np.testing.assert_allclose(affine, scores, rtol=0, atol=1e-5)
    wider, wider_test = (
        np.pad(x, ((0, 0), (0, 1)), constant_values=7.0) for x in (features, test_features)
    )
    constant = fit_least_squares(wider, labels, 3)(wider_test)
    np.testing.assert_allclose(constant, scores, rtol=0, atol=1e-12)


def test_float32_features_are_solved_in_float64():
    features, labels = problem(30, 8)
    features = features.astype(np.float32)
    scores = fit_least_squares(features, labels, 3)(features)
    assert scores.dtype == np.float64
    assert np.array_equal(scores, fit_least_squares(features.astype(float), labels, 3)(features))


@pytest.mark.parametrize("shots", [1, 2, 7])
def test_each_class_has_the_requested_number_of_images(shots):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 7))
    chosen = sample_shots(labels, shots, seed=5)
    assert labels[chosen].tolist() == np.repeat(np.arange(4), shots).tolist()
    assert len(set(chosen)) == 4 * shots


def test_a_larger_sample_includes_a_smaller_one_and_the_seed_determines_it():
    labels = np.arange(400) % 4
    two, nine = sample_shots(labels, 2, seed=0), sample_shots(labels, 9, seed=0)
    assert set(two) < set(nine)
    assert np.array_equal(nine, sample_shots(labels, 9, seed=0))
    assert set(nine) != set(sample_shots(labels, 9, seed=1))


@pytest.mark.parametrize(("labels", "n"), [([0, 0, 0, 1, 1], 2), ([0, 0, 0, 2, 2, 2], 0)])
def test_too_few_images_of_a_class_are_rejected(labels, n):
    with pytest.raises(ValueError, match=f"class 1 has {n} images, fewer than 3 shots"):
        sample_shots(np.array(labels), 3, seed=0)


def split_problem(n, D):
    """Return training features and labels, and test features and labels."""
    features, labels = problem(n, D)
    features[np.arange(n), labels] += 20
    return features[: n // 2], labels[: n // 2], features[n // 2 :], labels[n // 2 :]


def test_accuracies_equal_the_definition():
    features, labels, test_features, test_labels = arrays = split_problem(500, 20)
    accuracies = evaluate_few_shot(*arrays, shots=(1, 4, 30), seeds=(0, 5))
    for row, shots in zip(accuracies, (1, 4, 30), strict=True):
        for accuracy, seed in zip(row, (0, 5), strict=True):
            chosen = sample_shots(labels, shots, seed)
            scores = solve_normal_equations(features[chosen], labels[chosen], 3, test_features)
            assert accuracy == np.mean(scores.argmax(1) == test_labels)
    assert len(np.unique(accuracies)) > 3


def test_only_the_sampled_images_influence_the_classifier():
    features, labels, test_features, test_labels = split_problem(140, 6)
    before = evaluate_few_shot(features, labels, test_features, test_labels, (5,), (2,))
    rest = np.setdiff1d(np.arange(70), sample_shots(labels, 5, seed=2))
    features[rest] = 1e6 * np.random.default_rng(3).normal(size=(len(rest), 6))
    after = evaluate_few_shot(features, labels, test_features, test_labels, (5,), (2,))
    assert np.array_equal(after, before)
    single = [  # one test image at a time, because they do not influence each other
        evaluate_few_shot(features, labels, test_features[[i]], test_labels[[i]], (5,), (2,))
        for i in range(70)
    ]
    assert np.mean(single) == pytest.approx(before[0, 0])


@pytest.mark.parametrize(
    "shapes", [((5, 3), 5, (4, 2), 4), ((5, 3), 4, (4, 3), 4), ((5, 3), 5, (4, 3), 5),
               ((5, 3, 1), 5, (4, 3, 1), 4)],
    ids=str,
)  # fmt: skip
def test_inconsistent_shapes_are_rejected(shapes):
    features, n, test_features, m = shapes
    arrays = np.zeros(features), np.zeros(n, int), np.zeros(test_features), np.zeros(m, int)
    with pytest.raises(ValueError, match="features"):
        evaluate_few_shot(*arrays, shots=(1,))
