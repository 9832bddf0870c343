"""One-pass variance: compute the variance of a row while reading it once.

    n = a + b,   gap = mean_b - mean_a
    mean = mean_a + gap · b / n
    squares = squares_a + squares_b + gap² · a b / n

Layer norm reads a row three times: for the mean, for the variance, and to write the result. One
pass is saved if count, mean and squares are computed for partial sets and merged as above, where
`squares` is the sum of the squared differences from the mean (Chan et al., 1979). A single number
is also a set. Each of the `lanes` lanes merges every `lanes`-th number into its set. Then the lanes
are merged in pairs, at distances lanes / 2, lanes / 4, ..., 1. (mean(x²) - mean(x)² also needs one
pass, but the leading digits that both terms share cancel.)
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Use three arrays: count (lanes,), mean and squares (..., lanes), initially zero. In each\n"
    "round, every lane merges one number: a set with count 1, mean x and squares 0. In the last\n"
    "round, some lanes have no number left and merge a set with count 0. Avoid 0 / 0 if both sets\n"
    "are empty.",
    "After the row is read, merge lane j with lane j ^ distance for distance = lanes / 2, ...,\n"
    "2, 1: use mean[..., np.arange(lanes) ^ distance], and likewise for count and squares. Then\n"
    "every lane has the result. The backward pass needs no lanes: what is the derivative of the\n"
    "variance with respect to x_i? The mean also depends on x_i, but this has no effect, because\n"
    "the differences from the mean sum to zero.",
    "    fraction = b / np.maximum(a + b, 1)\n"
    "    mean = mean_a + gap * fraction\n"
    "    squares = squares_a + squares_b + gap * gap * a * fraction\n"
    "In the backward pass, with the final mean:\n"
    "    dx = dy * 2 * (x - mean) / n",
)


def merge(a: tuple, b: tuple) -> tuple:
    """Merge (count, mean, squares) of two sets of numbers."""
    (count_a, mean_a, squares_a), (count_b, mean_b, squares_b) = a, b
    gap, fraction = mean_b - mean_a, count_b / np.maximum(count_a + count_b, 1)
    squares = squares_a + squares_b + gap * gap * count_a * fraction
    return count_a + count_b, mean_a + gap * fraction, squares


def variance_in_one_reading(x: Array, lanes: int) -> tuple[Array, Pullback]:
    """Compute the variance of each row. Lane j reads the numbers j, j + lanes, ... once.

    x (..., n), lanes a power of 2  ->  (..., 1). The pullback returns dx.
    """
    n, front = x.shape[-1], x.shape[:-1]
    rounds = -(-n // lanes)
    present = (np.arange(rounds * lanes) < n).reshape(rounds, lanes)
    numbers = np.concatenate([x, np.zeros((*front, rounds * lanes - n))], -1)
    numbers = numbers.reshape(*front, rounds, lanes)
    state = np.zeros(lanes), np.zeros((*front, lanes)), np.zeros((*front, lanes))
    for i in range(rounds):
        state = merge(state, (present[i], numbers[..., i, :], 0))
    distance = lanes // 2
    while distance:
        state = merge(state, tuple(part[..., np.arange(lanes) ^ distance] for part in state))
        distance //= 2
    _, mean, squares = state

    def pullback(dy):
        return dy * 2 * (x - mean[..., :1]) / n

    return squares[..., :1] / n, pullback


def expected(x: Array, lanes: int) -> Array:
    """Compute the value row by row. The number of lanes does not affect it."""
    y = np.empty((*x.shape[:-1], 1))
    for row in np.ndindex(x.shape[:-1]):
        mean = sum(x[row]) / len(x[row])
        y[row] = sum((number - mean) ** 2 for number in x[row]) / len(x[row])
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return inputs with more and fewer numbers than lanes, one lane, and a large mean."""
    sets = [((2, 3, 7), 0, 4), ((4, 3), 0, 8), ((5,), 0, 1), ((3, 40), 8000, 32)]
    return [(mean + rng.normal(size=shape), lanes) for shape, mean, lanes in sets]
