"""A training step as a CUDA graph: captured once, and then launched as a whole.

While a stream is captured CuPy refuses to call cuBLAS, whose workspace it does not manage. Called
directly, with a handle and a workspace of one's own, cuBLAS can be captured. Whether that works,
and whether it pays, is what is tried here.
"""

import contextlib
import ctypes
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from gpu_kernels import medians  # stands beside this file
from gpu_peers import Minivit

from minivit.devices import first_line

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
    found = [path for path in sorted(paths) if Path(path).name.startswith(name)]
    if not found:
        raise RuntimeError(f"no {name} is loaded")
    return found[0]


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


def try_graphs(model: str, its_problem: tuple) -> None:
    """A whole step as a CUDA graph: by CuPy's cuBLAS, and by one with a handle of its own."""
    peer = Minivit(*its_problem)
    step = peer.call("step", "tf32")
    peer.wait()
    stream = peer.xp.cuda.Stream(non_blocking=True)
    with stream:
        step()  # all is compiled, memory is there
        try_graph(f"{model}, CuPy's cuBLAS", step, stream)
        try:
            with own_cublas(peer.xp, stream):
                try_graph(f"{model}, cuBLAS called directly", step, stream)
        except Exception as error:
            print(f"no cuBLAS to be called directly: {type(error).__name__}: {first_line(error)}")


def try_graph(what: str, step: Callable[[], object], stream: Any) -> None:
    """How long a step takes as it is and as a graph, or what could not be captured."""
    step()
    step()
    stream.synchronize()
    try:
        stream.begin_capture()
        step()
        graph = stream.end_capture()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        names = [f.name for f in frames if "minivit" in Path(f.filename).parts]
        refused = f"`{(names or ['step'])[-1]}` was refused: {first_line(error)}"
        print(f"no CUDA graph of a step of {what}: {refused}")
        with contextlib.suppress(Exception):
            stream.end_capture()
        return
    calls = {"step": step, "graph": lambda: graph.launch(stream)}
    times = medians(calls, stream.synchronize)
    shown = ", ".join(f"{name} {t * 1e3:.2f} ms" for name, t in times.items())
    print(f"a step of {what}, as it is and as a CUDA graph: {shown}")
