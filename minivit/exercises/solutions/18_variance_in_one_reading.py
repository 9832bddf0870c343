"""The variance of a row that is read once.

    n = a + b,   gap = mean_b - mean_a
    mean = mean_a + gap · b / n
    squares = squares_a + squares_b + gap² · a b / n

Layer norm goes over a row three times: for its mean, for its squares around that mean, and to
write. With the three numbers count, mean and squares (the sum of squared distances from the mean)
one time less will do: two heaps of numbers are merged as above (Chan et al., 1979), and a single
number is a heap as well. Each lane merges every `lanes`-th number into its heap; then the lanes
merge in pairs, as far apart as half of them, a quarter, ..., 1. (mean(x²) - mean(x)² needs one
reading too, but loses all digits that the two squares share.)
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "Keep three arrays: count (lanes,), mean and squares (..., lanes), all zeros at first. Each\n"
    "round a number comes to every lane: the heap with count 1, mean x and squares 0. In the last\n"
    "round some lanes get none: a heap with count 0. Beware of 0 / 0 where both are empty.",
    "When the row is read, lane j merges with lane j ^ far, for far = lanes / 2, ..., 2, 1: take\n"
    "mean[..., np.arange(lanes) ^ far], and count and squares likewise. Then each lane has all.\n"
    "For the way back forget the lanes: what is the slope of the variance by one number x_i? That\n"
    "the mean moves as well makes no difference, as the distances from it sum to zero.",
    "    share = b / np.maximum(a + b, 1)\n"
    "    mean = mean_a + gap * share\n"
    "    squares = squares_a + squares_b + gap * gap * a * share\n"
    "and back, with the mean that the lanes agreed on:\n"
    "    dx = dy * 2 * (x - mean) / n",
)


def merged(a: tuple, b: tuple) -> tuple:
    """Count, mean and squares of two heaps of numbers together."""
    (some, mean, squares), (more, other_mean, other_squares) = a, b
    gap, share = other_mean - mean, more / np.maximum(some + more, 1)
    squares = squares + other_squares + gap * gap * some * share
    return some + more, mean + gap * share, squares


def variance_in_one_reading(x: Array, lanes: int) -> tuple[Array, Pullback]:
    """mean((x - mean(x))²) of each row; lane j reads the numbers j, j + lanes, ..., each once.

    x (..., n), lanes a power of 2  ->  (..., 1). The pullback returns dx.
    """
    n, front = x.shape[-1], x.shape[:-1]
    rounds = -(-n // lanes)
    there = (np.arange(rounds * lanes) < n).reshape(rounds, lanes)
    numbers = np.concatenate([x, np.zeros((*front, rounds * lanes - n))], -1)
    numbers = numbers.reshape(*front, rounds, lanes)
    heap = np.zeros(lanes), np.zeros((*front, lanes)), np.zeros((*front, lanes))
    for i in range(rounds):
        heap = merged(heap, (there[i], numbers[..., i, :], 0))
    far = lanes // 2
    while far:
        heap = merged(heap, tuple(part[..., np.arange(lanes) ^ far] for part in heap))
        far //= 2
    _, mean, squares = heap

    def pullback(dy):
        return dy * 2 * (x - mean[..., :1]) / n

    return squares[..., :1] / n, pullback


def expected(x: Array, lanes: int) -> Array:
    """The value, row by row; how many lanes makes no difference."""
    y = np.empty((*x.shape[:-1], 1))
    for row in np.ndindex(x.shape[:-1]):
        mean = sum(x[row]) / len(x[row])
        y[row] = sum((number - mean) ** 2 for number in x[row]) / len(x[row])
    return y


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on: more numbers than lanes, fewer, one lane, and a mean that is large."""
    sets = [((2, 3, 7), 0, 4), ((4, 3), 0, 8), ((5,), 0, 1), ((3, 40), 8000, 32)]
    return [(mean + rng.normal(size=shape), lanes) for shape, mean, lanes in sets]
