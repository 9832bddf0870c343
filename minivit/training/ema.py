"""Exponential moving average (EMA) of the weights."""

from ..arrays import Array
from ..optim import for_each_block
from ..tree import ParameterVector, map_tree, pack


class EMA:
    """The moving average of a parameter vector, in the same order.

        a = d a + (1 - d) p,   d = min(decay, (1 + t) / (10 + t))

    Averaging reduces the noise of the last training steps (Polyak and Juditsky, 1992). The factor d
    increases during the first steps, as in TensorFlow's `ExponentialMovingAverage`, so that the
    initial weights soon have no influence.
    """

    def __init__(self, parameters: ParameterVector, decay: float) -> None:
        self.parameters = pack(map_tree(lambda leaf: leaf, parameters.tree))  # copies
        self.decay = decay

    def update(self, vector: Array, t: int, threads: int | None = None) -> None:
        """Add the parameter vector after step t, counted from 1, to the average."""
        weight = 1 - min(self.decay, (1 + t) / (10 + t))
        average = self.parameters.vector

        def update_block(block: slice) -> None:
            difference = vector[block] - average[block]
            difference *= weight
            average[block] += difference

        for_each_block(update_block, vector, 0, threads)
