"""Batches on their way to the GPU, while it works on others."""

import cupy
import cupyx
import numpy as np

from ..arrays import Array

PER_THREAD = 2  # CUDA's handle of the stream that each thread has for itself, if asked to
VARIABLE = "CUPY_CUDA_PER_THREAD_DEFAULT_STREAM"


class Uploader:
    """Copies arrays of the host to the GPU, on a stream of its own: `begin()`, then `send(array)`.

    They go through pinned memory, from which the GPU fetches them by itself. It is made by the
    thread that computes, and used in one beside it, which alone waits for the copy. Raises
    RuntimeError where each thread has a stream of its own: there copies could not wait for the
    work.
    """

    def __init__(self) -> None:
        self.device, self.work = cupy.cuda.Device(), cupy.cuda.get_current_stream()
        if self.work.ptr == PER_THREAD:
            raise RuntimeError("batches are sent from another thread: unset " + VARIABLE)
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.begin()

    def begin(self) -> None:
        """What is sent from now on may take the memory of what the GPU has been asked to use up to
        here, and of nothing that it is asked for later."""
        with self.device:
            self.before = self.work.record()

    def __call__(self, array: np.ndarray) -> Array:
        """The array on the GPU, whole."""
        with self.device:
            pinned = cupyx.empty_pinned(array.shape, array.dtype)
            pinned[...] = array
            with self.stream:
                arrived = cupy.empty(array.shape, array.dtype)
            self.stream.wait_event(self.before)
            arrived.set(pinned, stream=self.stream)
            self.stream.synchronize()
        return arrived
