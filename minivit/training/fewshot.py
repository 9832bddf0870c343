"""Few-shot evaluation: a linear classifier on frozen features, fitted to a few images per class.

Ridge regression (L2-regularised least squares) on targets of -1 and 1 has a closed-form solution
(section 4.1). The constants are those of the authors' code.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..arrays import Array

SHOTS = (1, 5, 10, 25)
SEEDS = (0, 1, 2)
L2 = 2.0**10
BIAS_FEATURE = 100.0  # constant; its weight gives the bias; large, to make the penalty negligible


def evaluate_few_shot(
    features: Array,
    labels: Array,
    test_features: Array,
    test_labels: Array,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
) -> Array:
    """Return the test accuracy, 0 to 1, for each number of images per class and each seed.

    features (n, D), labels (n,), test_features (m, D), test_labels (m,)
    ->  (len(shots), len(seeds))
    For each seed the training subsets are nested: fewer shots select a subset of the images of more
    shots. Raises ValueError for inconsistent shapes, or if a class has too few images.
    """
    if features.ndim != 2 or features.shape[1:] != test_features.shape[1:]:
        shapes = f"{features.shape} and {test_features.shape}"
        raise ValueError(f"features of shapes {shapes}: expected (n, D) and (m, D)")
    if (len(features), len(test_features)) != (len(labels), len(test_labels)):
        raise ValueError("features and labels must have the same length")
    K = int(labels.max()) + 1

    def accuracy(n: int, seed: int) -> float:
        chosen = sample_shots(labels, n, seed)
        scores = fit_least_squares(features[chosen], labels[chosen], K)
        return float(np.mean(scores(test_features).argmax(-1) == test_labels))

    return np.array([[accuracy(n, seed) for seed in seeds] for n in shots])


def sample_shots(labels: Array, shots: int, seed: int) -> Array:
    """Draw the indices of `shots` images of each class. Raises ValueError if a class has fewer."""
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(np.flatnonzero(labels == c)) for c in range(labels.max() + 1)]
    for c, order in enumerate(orders):
        if len(order) < shots:
            raise ValueError(f"class {c} has {len(order)} images, fewer than {shots} shots")
    return np.concatenate([order[:shots] for order in orders])


def fit_least_squares(
    features: Array, labels: Array, K: int, l2: float = L2
) -> Callable[[Array], Array]:
    """Fit a linear model to targets of -1 and 1 with the penalty l2 |weights|², in float64.

    features (n, D), labels (n,)  ->  a function from features (m, D) to scores (m, K)
    Each feature is standardised to zero mean and unit variance over these n images.
    """
    features = features.astype(np.float64)
    mean, std = features.mean(0), features.std(0) + 1e-5

    def standardise(x: Array) -> Array:
        return np.pad((x - mean) / std, ((0, 0), (0, 1)), constant_values=BIAS_FEATURE)

    X = standardise(features)  # (n, D + 1)
    Y = 2.0 * (labels[:, None] == np.arange(K)) - 1  # (n, K)
    solve = solve_primal if X.shape[0] >= X.shape[1] else solve_dual
    W = solve(X, Y, l2)  # (D + 1, K)
    return lambda x: standardise(x) @ W


def solve_primal(X: Array, Y: Array, l2: float) -> Array:
    """Compute W = (XᵀX + l2 I)⁻¹ XᵀY by eigendecomposition of XᵀX, smaller than XXᵀ if n > D.

    X (n, D), Y (n, K)  ->  W (D, K)
    """
    values, Q = np.linalg.eigh(X.T @ X)  # (D,), (D, D)
    return Q @ ((Q.T @ (X.T @ Y)) / (values + l2)[:, None])


def solve_dual(X: Array, Y: Array, l2: float) -> Array:
    """Compute the same W = Xᵀ (XXᵀ + l2 I)⁻¹ Y by eigendecomposition of XXᵀ, smaller if n < D.

    X (n, D), Y (n, K)  ->  W (D, K)
    """
    values, Q = np.linalg.eigh(X @ X.T)  # (n,), (n, n)
    return X.T @ (Q @ ((Q.T @ Y) / (values + l2)[:, None]))
