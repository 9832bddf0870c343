"""Count the FLOP of the matrix products in a pass through a model."""

import numpy as np

from minivit.models import initialise, vit
from minivit.tree import map_tree

BATCH_SIZE = 2  # with one image, the head would compute a product with a vector


class CountingArray(np.ndarray):
    """An array that appends the FLOP of each of its matrix products to the list `counts`.

    Results of ufuncs are counting arrays too. Results of functions such as `concatenate` are not.
    """

    __module__ = "numpy"  # `array_module` returns the module of this name

    def __array_finalize__(self, source):
        self.counts = getattr(source, "counts", None)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        plain = [as_plain(x) for x in inputs]
        if ufunc is np.matmul:
            self.counts.append(product_flop(*(x.shape for x in plain)))
        if out is not None:
            kwargs["out"] = tuple(map(as_plain, out))
        result = getattr(ufunc, method)(*plain, **kwargs)
        return out[0] if out is not None else as_counting(result, self.counts)


def as_plain(x):
    return x.view(np.ndarray) if isinstance(x, CountingArray) else x


def as_counting(x, counts):
    x = np.asarray(x).view(CountingArray)
    x.counts = counts
    return x


def product_flop(a, b):
    """Return 2 n m p for shapes (..., n, m) and (..., m, p), and 0 for a product with a vector.

    Products with a vector of ones are how minivit computes sums.
    """
    if min(len(a), len(b)) < 2 or a[-2] == 1 or b[-1] == 1:
        return 0
    stack = np.broadcast_shapes(a[:-2], b[:-2])
    return 2 * int(np.prod(stack, dtype=int)) * a[-2] * a[-1] * b[-1]


def count_flop(config, dtype):
    """Return the FLOP of the forward and of the backward pass of `BATCH_SIZE` images."""
    counts = []
    params = map_tree(lambda p: as_counting(p, counts), initialise(config, dtype=dtype))
    images = np.zeros((BATCH_SIZE, *config.image_size, config.channels), dtype)
    generator = np.random.default_rng(0)
    logits, pullback = vit(as_counting(images, counts), params, config, generator)
    forward = sum(counts)
    pullback(as_counting(np.ones(logits.shape, dtype), counts))
    return forward, sum(counts) - forward
