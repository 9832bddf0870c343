"""Where a model lives: in the computer's memory under NumPy, or on a GPU under CuPy.

CuPy is imported when somebody asks for a GPU, and only then.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Array, array_module, device_of, to_host
from .tree import Tree, map_tree

if TYPE_CHECKING:
    from .cuda.transfer import Uploader

DEVICES = ("auto", "cpu", "gpu")
PRECISIONS = ("float32", "tf32", "bfloat16")  # of the products of float32 arrays, on a GPU


class NoGPUError(RuntimeError):
    """There is no GPU to work with. The message says which part is missing."""


def resolve_device(device: str) -> str:
    """ "cpu" or "gpu": for "auto" the GPU if there is one, else the CPU, and a line that says why.

    Raises NoGPU for "gpu" where there is none, ValueError for what is no device.
    """
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}: choose {', '.join(DEVICES)}")
    if device == "cpu":
        return device
    try:
        require_cupy()
    except NoGPUError as reason:
        if device == "gpu":
            raise
        print(f"no GPU is used ({reason}): NumPy on the CPU does the work", file=sys.stderr)
        return "cpu"
    return "gpu"


def require_cupy() -> ModuleType:
    """CuPy, once it has computed something. Raises NoGPU if any part of what that takes fails."""
    try:
        import cupy
    except ModuleNotFoundError:
        how = '`pip install "cupy-cuda13x[ctk]"` or -cuda12x'
        raise NoGPUError(f"CuPy is not installed: {how}") from None
    except ImportError as error:
        raise NoGPUError(f"CuPy is installed, but does not start: {first_line(error)}") from None
    runtime = cupy.cuda.runtime
    if runtime.driverGetVersion() == 0:
        raise NoGPUError("CuPy is installed, but no NVIDIA driver")
    try:
        if runtime.getDeviceCount() == 0:
            raise NoGPUError("CuPy and a driver are installed, but there is no device")
        one = cupy.ones((1, 1), dtype="float32")
        to_host(one @ one + one)  # by cuBLAS, and a kernel compiled
    except NoGPUError:
        raise
    except Exception as error:  # whatever it is: it does not work
        reason = f"CuPy and a driver are installed, but do not work: {first_line(error)}"
        raise NoGPUError(reason) from None
    return cupy


def first_line(error: Exception) -> str:
    """The first line of what an exception says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def device_module(device: str) -> ModuleType:
    """The array module of a device that `resolve_device` takes. A GPU's brings the faster layers of `cuda`.

    Raises NoGPU if there is no GPU, ValueError for what is no device.
    """
    if resolve_device(device) == "cpu":
        return np
    from . import cuda

    return cuda.cupy


def to_device(tree: Tree, device: str) -> Tree:
    """A tree of the same arrays on this device; those that are there already are not copied."""
    xp = device_module(device)
    return map_tree(to_host if xp is np else xp.asarray, tree)


def set_matmul_precision(precision: str) -> None:
    """How the products of layers and of attention on a GPU read float32; they add in float32.

    One of PRECISIONS: "float32"; "tf32", which has 10 binary digits behind the point; "bfloat16",
    which has 7. It holds for all models of the process. Raises NoGPU, ValueError for another.
    """
    device_module("gpu")
    from .cuda.arrays import set_matmul_precision

    set_matmul_precision(precision)


def create_uploader() -> "Uploader":
    """What copies arrays of the host to the GPU, beside what this thread has it do."""
    device_module("gpu")
    from .cuda.transfer import Uploader

    return Uploader()


def synchronise(x: Array) -> None:
    """Wait until the device of this array has done all that it was told."""
    if device_of(x) == "gpu":
        array_module(x).cuda.get_current_stream().synchronize()


def is_gpu_out_of_memory(error: MemoryError) -> bool:
    """Whether it is a GPU's memory that did not do, and not the host's."""
    return type(error).__name__ == "OutOfMemoryError"  # CuPy's


def available_gpu_memory() -> int:
    """Bytes on the GPU that this process has or could still get. Raises NoGPU."""
    xp = device_module("gpu")
    free, _ = xp.cuda.runtime.memGetInfo()
    return free + xp.get_default_memory_pool().total_bytes()
