"""An exponential average of the weights: what the last steps have in common."""

from typing import Any

from ..arrays import Array
from ..optim import for_each_block
from ..tree import is_kernel, map_tree, pack


class EMA:
    """One vector that follows the optimiser's, in the same order; `params` is the tree of it.

        a = d a + (1 - d) p,   d = min(decay, (1 + t) / (10 + t))

    The steps of a training go back and forth round what they approach; their mean is closer to
    it. At first d is small, so that the weights with which a training began are soon forgotten
    (Polyak and Juditsky, 1992; d warms up as in TensorFlow's `ExponentialMovingAverage`).
    """

    def __init__(self, params: dict[str, Any], decay: float) -> None:
        self.params = map_tree(lambda leaf: leaf, params)  # a tree of its own
        self.vector, _ = pack(self.params, first=is_kernel)  # with arrays of its own
        self.decay = decay

    def update(self, vector: Array, t: int, threads: int | None = None) -> None:
        """Take in the weights after step t, counted from 1: the optimiser's vector."""
        share = 1 - min(self.decay, (1 + t) / (10 + t))

        def of_block(block: slice) -> None:
            move = vector[block] - self.vector[block]
            move *= share
            self.vector[block] += move

        for_each_block(of_block, vector, 0, threads)
