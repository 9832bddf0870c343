"""Where a model lives: in the computer's memory under NumPy, or on a GPU under CuPy.

CuPy is imported when somebody asks for a GPU, and only then.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Array, array_module, to_host
from .tree import Tree, map_tree

if TYPE_CHECKING:
    from .cuda.transfer import Sender

DEVICES = ("auto", "cpu", "gpu")
PRECISIONS = ("float32", "tf32", "bfloat16")  # of the products of float32 arrays, on a GPU


class NoGPU(RuntimeError):
    """There is no GPU to work with. The message says which part is missing."""


def chosen(device: str) -> str:
    """ "cpu" or "gpu": for "auto" the GPU if there is one, else the CPU, and a line that says why.

    Raises NoGPU for "gpu" where there is none, ValueError for what is no device.
    """
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}: choose {', '.join(DEVICES)}")
    if device == "cpu":
        return device
    try:
        cupy_at_work()
    except NoGPU as reason:
        if device == "gpu":
            raise
        print(f"no GPU is used ({reason}): NumPy on the CPU does the work", file=sys.stderr)
        return "cpu"
    return "gpu"


def cupy_at_work() -> ModuleType:
    """CuPy, once it has computed something. Raises NoGPU if any part of what that takes fails."""
    try:
        import cupy
    except ModuleNotFoundError:
        how = '`pip install "cupy-cuda13x[ctk]"` or -cuda12x'
        raise NoGPU(f"CuPy is not installed: {how}") from None
    except ImportError as error:
        raise NoGPU(f"CuPy is installed, but does not start: {first_line(error)}") from None
    runtime = cupy.cuda.runtime
    if runtime.driverGetVersion() == 0:
        raise NoGPU("CuPy is installed, but no NVIDIA driver")
    try:
        if runtime.getDeviceCount() == 0:
            raise NoGPU("CuPy and a driver are installed, but there is no device")
        one = cupy.ones((1, 1), dtype="float32")
        to_host(one @ one + one)                              # by cuBLAS, and a kernel compiled
    except NoGPU:
        raise
    except Exception as error:                                # whatever it is: it does not work
        reason = f"CuPy and a driver are installed, but do not work: {first_line(error)}"
        raise NoGPU(reason) from None
    return cupy


def first_line(error: Exception) -> str:
    """The first line of what an exception says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def module_of(device: str) -> ModuleType:
    """The array module of a device that `chosen` takes. A GPU's brings the faster layers of `cuda`.

    Raises NoGPU if there is no GPU, ValueError for what is no device.
    """
    if chosen(device) == "cpu":
        return np
    from . import cuda

    return cuda.cupy


def device_of(x: Array) -> str:
    """The device of an array, or of a number of Python: "cpu" or "gpu"."""
    return "gpu" if hasattr(x, "get") else "cpu"


def moved(tree: Tree, device: str) -> Tree:
    """A tree of the same arrays on this device; those that are there already are not copied."""
    xp = module_of(device)
    return map_tree(to_host if xp is np else xp.asarray, tree)


def multiply_in(precision: str) -> None:
    """How the products of layers and of attention on a GPU read float32; they add in float32.

    One of PRECISIONS: "float32"; "tf32", which has 10 binary digits behind the point; "bfloat16",
    which has 7. It holds for all models of the process. Raises NoGPU, ValueError for another.
    """
    module_of("gpu")
    from .cuda.arrays import multiply_in

    multiply_in(precision)


def sender() -> "Sender":
    """What copies arrays of the host to the GPU, beside what this thread has it do."""
    module_of("gpu")
    from .cuda.transfer import Sender

    return Sender()


def synchronise(x: Array) -> None:
    """Wait until the device of this array has done all that it was told."""
    if device_of(x) == "gpu":
        array_module(x).cuda.get_current_stream().synchronize()


def is_of_device(error: MemoryError) -> bool:
    """Whether it is a GPU's memory that did not do, and not the host's."""
    return type(error).__name__ == "OutOfMemoryError"         # CuPy's


def device_memory() -> int:
    """Bytes on the GPU that this process has or could still get. Raises NoGPU."""
    xp = module_of("gpu")
    free, _ = xp.cuda.runtime.memGetInfo()
    return free + xp.get_default_memory_pool().total_bytes()
