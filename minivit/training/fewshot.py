"""Few-shot evaluation: how well a linear model names a few images a class from frozen features.

Nothing is trained: regularised least squares onto targets of -1 and 1 has a solution in closed
form (Section 4.1). The constants are those of the authors' code.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..arrays import Array

SHOTS = (1, 5, 10, 25)
SEEDS = (0, 1, 2)
L2 = 2.0**10
CONSTANT = 100.0  # the feature that makes the bias: its weight stays small, so it costs little


def evaluate_few_shot(
    features: Array,
    labels: Array,
    test_features: Array,
    test_labels: Array,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
) -> Array:
    """The test accuracies, 0 to 1, after so many images of each class, drawn with each seed.

    features (n, D), labels (n,), test_features (m, D), test_labels (m,)
    ->  (len(shots), len(seeds))

    The images of more shots include those of fewer. Raises ValueError if a class has too few.
    """
    if features.ndim != 2 or features.shape[1:] != test_features.shape[1:]:
        raise ValueError(f"features of shapes {features.shape} and {test_features.shape}")
    if (len(features), len(test_features)) != (len(labels), len(test_labels)):
        raise ValueError("each row of features needs a label")
    K = int(labels.max()) + 1

    def accuracy(n: int, seed: int) -> float:
        chosen = sample_shots(labels, n, seed)
        scores = fit_least_squares(features[chosen], labels[chosen], K)
        return float(np.mean(scores(test_features).argmax(-1) == test_labels))

    return np.array([[accuracy(n, seed) for seed in seeds] for n in shots])


def sample_shots(labels: Array, shots: int, seed: int) -> Array:
    """The places of `shots` images of each class, drawn at random; a class's lie together.

    Raises ValueError if a class has fewer.
    """
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(np.flatnonzero(labels == c)) for c in range(labels.max() + 1)]
    for c, order in enumerate(orders):
        if len(order) < shots:
            raise ValueError(f"class {c} has {len(order)} images, too few for {shots} shots")
    return np.concatenate([order[:shots] for order in orders])


def fit_least_squares(
    features: Array, labels: Array, K: int, l2: float = L2
) -> Callable[[Array], Array]:
    """The linear model with the least squared error on targets of -1 and 1, plus l2 |weights|².

    features (n, D), labels (n,)  ->  a function of features (m, D) that gives scores (m, K)

    Each feature is whitened, brought to zero mean and unit variance over these n alone. In
    float64.
    """
    features = features.astype(np.float64)
    mean, deviation = features.mean(0), features.std(0) + 1e-5

    def whitened(some: Array) -> Array:
        return np.pad((some - mean) / deviation, ((0, 0), (0, 1)), constant_values=CONSTANT)

    X = whitened(features)  # (n, D + 1)
    Y = 2.0 * (labels[:, None] == np.arange(K)) - 1  # (n, K)
    solve = solve_primal if X.shape[0] >= X.shape[1] else solve_dual
    W = solve(X, Y, l2)  # (D + 1, K)
    return lambda some: whitened(some) @ W


def solve_primal(X: Array, Y: Array, l2: float) -> Array:
    """(XᵀX + l2 I)⁻¹ XᵀY by the eigenvectors of XᵀX: the smaller one if there are many points.

    X (n, D), Y (n, K)  ->  (D, K)
    """
    values, Q = np.linalg.eigh(X.T @ X)  # (D,), (D, D)
    return Q @ ((Q.T @ (X.T @ Y)) / (values + l2)[:, None])


def solve_dual(X: Array, Y: Array, l2: float) -> Array:
    """The same as Xᵀ (XXᵀ + l2 I)⁻¹ Y, by the eigenvectors of XXᵀ: for fewer points than features.

    X (n, D), Y (n, K)  ->  (D, K)
    """
    values, Q = np.linalg.eigh(X @ X.T)  # (n,), (n, n)
    return X.T @ (Q @ ((Q.T @ Y) / (values + l2)[:, None]))
