"""Counting the products that are really done, to compare with the formulas."""

from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..models import ViTConfig, initialise, vit
from ..tree import map_tree

IMAGES = 2  # with one alone the head's product would look like a sum


class Counts(NamedTuple):
    """FLOP of the products of matrices in a forward and in its backward, for so many images."""

    images: int
    forward: int
    backward: int


class Counted(np.ndarray):
    """An array that notes in its `tally`, a list, the FLOP of every product it takes part in.

    What is computed from it counts as well, except what NumPy puts together from several arrays.
    """

    __module__ = "numpy"  # whose functions work on it, see `array_module`

    def __array_finalize__(self, origin: Any) -> None:
        self.tally = getattr(origin, "tally", None)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **keywords: Any
    ) -> Any:
        plain = [bare(x) for x in inputs]
        if ufunc is np.matmul:
            self.tally.append(product_flop(*(x.shape for x in plain)))
        if out is not None:
            keywords["out"] = tuple(map(bare, out))
        result = getattr(ufunc, method)(*plain, **keywords)
        return out[0] if out is not None else counted(result, self.tally)


def bare(x: Any) -> Any:
    """The same memory as an array that counts nothing."""
    return x.view(np.ndarray) if isinstance(x, Counted) else x


def counted(x: Array, tally: list[int]) -> Array:
    """The same memory as an array that counts."""
    x = np.asarray(x).view(Counted)
    x.tally = tally
    return x


def product_flop(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """2 n m p for (..., n, m) @ (..., m, p); a product with a vector is a sum, and not counted."""
    if min(len(a), len(b)) < 2 or a[-2] == 1 or b[-1] == 1:
        return 0
    stack = np.broadcast_shapes(a[:-2], b[:-2])
    return 2 * int(np.prod(stack, dtype=int)) * a[-2] * a[-1] * b[-1]


def counted_flop(config: ViTConfig, dtype: str = "float32") -> Counts:
    """Run a forward and a backward on two images, and count.

    Of a model with a single token, a head of one class or one channel a head, the products with
    these would look like sums, and not be counted.
    """
    tally: list[int] = []
    params = map_tree(lambda p: counted(p, tally), initialise(config, dtype=dtype))
    images = counted(np.zeros((IMAGES, *config.image_size, config.channels), dtype), tally)
    logits, pullback = vit(images, params, config, np.random.default_rng(0))
    forward = sum(tally)
    pullback(counted(np.ones(logits.shape, dtype), tally))
    return Counts(IMAGES, forward, sum(tally) - forward)
