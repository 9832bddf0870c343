"""Copy arrays to the GPU while it computes."""

import cupy  # pyright: ignore[reportMissingImports]
import cupyx  # pyright: ignore[reportMissingImports]
import numpy as np

from ..arrays import Array

PER_THREAD_STREAM = 2  # CUDA's handle of the per-thread default stream


class Uploader:
    """Copy host arrays to the GPU on a separate stream: call `begin()`, then `uploader(array)`.

    The copies use pinned memory. The computing thread creates the uploader; a background thread
    calls it and waits for the copies. Raises RuntimeError if CuPy uses per-thread default streams,
    because then the copies could not wait for the computation.
    """

    def __init__(self) -> None:
        self.device, self.compute_stream = cupy.cuda.Device(), cupy.cuda.get_current_stream()
        if self.compute_stream.ptr == PER_THREAD_STREAM:
            raise RuntimeError("unset CUPY_CUDA_PER_THREAD_DEFAULT_STREAM to train on a GPU")
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.begin()

    def begin(self) -> None:
        """Make later copies wait for queued kernels, which may read memory that copies reuse."""
        with self.device:
            self.event = self.compute_stream.record()

    def __call__(self, array: np.ndarray) -> Array:
        """Copy the array to the GPU, wait until the copy is complete, and return it."""
        with self.device:
            pinned = cupyx.empty_pinned(array.shape, array.dtype)
            pinned[...] = array
            with self.stream:
                copy = cupy.empty(array.shape, array.dtype)
            self.stream.wait_event(self.event)
            copy.set(pinned, stream=self.stream)
            self.stream.synchronize()
        return copy
