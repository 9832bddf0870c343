"""cuBLAS with a handle and a workspace of one's own, as a CUDA graph needs it.

While a stream is captured CuPy refuses to call cuBLAS, whose workspace it does not manage. Called
directly, with memory that stays where it is, cuBLAS can be captured.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

WORKSPACE = 32 << 20  # bytes: what NVIDIA recommends for Hopper
MAPS = Path("/proc/self/maps")
INT, LONG, ADDRESS = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
OPERAND = [ADDRESS, INT, INT, LONG]  # where, its type, leading dimension, distance to the next
SIGNATURE = [ADDRESS, *5 * [INT], ADDRESS, *OPERAND, *OPERAND, ADDRESS, *OPERAND, INT, INT, INT]


class OwnCublas:
    """In the place of `cupy.cuda.cublas`: the same constants, and a product of its own."""

    def __init__(self, xp: ModuleType, stream: Any) -> None:
        self.theirs = xp.cuda.cublas
        self.library = ctypes.CDLL(loaded("libcublas.so"))
        self.library.cublasGemmStridedBatchedEx.argtypes = SIGNATURE
        self.handle, self.workspace = ADDRESS(), xp.empty(WORKSPACE, dtype="uint8")
        check(self.library.cublasCreate_v2(ctypes.byref(self.handle)))
        check(self.library.cublasSetStream_v2(self.handle, ADDRESS(stream.ptr)))
        size = ctypes.c_size_t(WORKSPACE)
        check(self.library.cublasSetWorkspace_v2(
            self.handle, ADDRESS(self.workspace.data.ptr), size
        ))  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return getattr(self.theirs, name)

    def gemmStridedBatchedEx(self, _: int, *args: Any) -> None:
        """As cuBLAS's, whatever the handle."""
        check(self.library.cublasGemmStridedBatchedEx(self.handle, *args))


def loaded(name: str) -> str:
    """The file of a library that this process has loaded."""
    paths = {line.split()[-1] for line in MAPS.read_text().splitlines() if "/" in line}
    return next(path for path in sorted(paths) if Path(path).name.startswith(name))


def check(status: int) -> None:
    if status:
        raise RuntimeError(f"cuBLAS answers {status}")


@contextlib.contextmanager
def own_cublas(xp: ModuleType, stream: Any) -> Iterator[None]:
    """Minivit's products go through an OwnCublas on this stream."""
    from minivit.cuda import arrays

    theirs, arrays.cublas = arrays.cublas, OwnCublas(xp, stream)
    try:
        yield
    finally:
        arrays.cublas = theirs
