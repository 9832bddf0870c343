"""Batches on their way to the GPU, while it works on others."""

import cupy
import cupyx
import numpy as np

from ..arrays import Array


class Sender:
    """Copies arrays of the host to the GPU, on a stream of its own: `send(array)`.

    They go through pinned memory, from which the GPU fetches them by itself. Called in a thread
    beside that which computes, only that thread waits for the copy. To be called in one thread.
    """

    def __init__(self) -> None:
        self.stream = cupy.cuda.Stream(non_blocking=True)

    def __call__(self, array: np.ndarray) -> Array:
        """The array on the GPU, whole."""
        pinned = cupyx.empty_pinned(array.shape, array.dtype)
        pinned[...] = array
        with self.stream:
            arrived = cupy.empty(array.shape, array.dtype)
        # That memory may have been a batch before, of a step that is still at work on it: what has
        # been asked of the GPU until now is done first.
        self.stream.wait_event(cupy.cuda.get_current_stream().record())
        arrived.set(pinned, stream=self.stream)
        self.stream.synchronize()
        return arrived
