"""Copy batches to the GPU while it computes."""

import cupy
import cupyx
import numpy as np

from ..arrays import Array

PER_THREAD_STREAM = 2  # CUDA's handle of the per-thread default stream


class Uploader:
    """Copy host arrays to the GPU on a separate stream: call `begin()`, then `uploader(array)`.

    The copies go through pinned memory, so that they are asynchronous. The computing thread creates
    the uploader; a background thread calls it and waits for the copies. Raises RuntimeError if
    CuPy uses per-thread default streams, because then copies could not wait for the computation.
    """

    def __init__(self) -> None:
        self.device, self.compute_stream = cupy.cuda.Device(), cupy.cuda.get_current_stream()
        if self.compute_stream.ptr == PER_THREAD_STREAM:
            raise RuntimeError(
                "batches are copied by a background thread, which needs a shared stream: "
                "unset CUPY_CUDA_PER_THREAD_DEFAULT_STREAM"
            )
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.begin()

    def begin(self) -> None:
        """Let later copies wait for the work that the GPU has been given up to now.

        A copy may reuse memory that this work still reads.
        """
        with self.device:
            self.event = self.compute_stream.record()

    def __call__(self, array: np.ndarray) -> Array:
        """Return a copy of the array on the GPU, and wait until it is complete."""
        with self.device:
            pinned = cupyx.empty_pinned(array.shape, array.dtype)
            pinned[...] = array
            with self.stream:
                copy = cupy.empty(array.shape, array.dtype)
            self.stream.wait_event(self.event)
            copy.set(pinned, stream=self.stream)
            self.stream.synchronize()
        return copy
