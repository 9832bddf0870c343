"""Devices: NumPy on the CPU, or CuPy on a GPU. CuPy is imported only if a GPU is requested."""

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from .arrays import to_host
from .terminal import print_message
from .tree import Tree, map_tree

if TYPE_CHECKING:
    from .cuda.transfer import Uploader

DEVICES = ("auto", "cpu", "gpu")
PRECISIONS = ("float32", "tf32", "bfloat16")


class NoGPUError(RuntimeError):
    """No GPU is available. The message names the missing part."""


def resolve_device(device: str) -> str:
    """Return "cpu" or "gpu". If "auto" finds no GPU, print the reason to stderr.

    Raises NoGPUError for "gpu" if there is no working GPU, ValueError for an unknown device.
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
        print_message(f"no GPU available ({reason}); using NumPy on the CPU")
        return "cpu"
    return "gpu"


def require_cupy() -> ModuleType:
    """Return CuPy after a test computation. Raise NoGPUError if any part of it fails."""
    try:
        import cupy  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        install = 'pip install "cupy-cuda13x[ctk]", or cupy-cuda12x[ctk] for CUDA 12'
        raise NoGPUError(f"CuPy is not installed: {install}") from None
    except ImportError as error:
        raise NoGPUError(
            f"CuPy is installed, but cannot be imported: {first_line(error)}"
        ) from None
    runtime = cupy.cuda.runtime
    if runtime.driverGetVersion() == 0:
        raise NoGPUError("CuPy is installed, but the NVIDIA driver is missing")
    installed = "CuPy and the NVIDIA driver are installed, but"
    try:
        count = runtime.getDeviceCount()
        if count:
            x = cupy.ones((1, 1), dtype="float32")
            to_host(x @ x + x)  # needs cuBLAS and the kernel compiler
    except Exception as error:  # a missing part can raise any type of exception
        raise NoGPUError(f"{installed} do not work: {first_line(error)}") from None
    if count == 0:
        raise NoGPUError(f"{installed} there is no GPU")
    return cupy


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type if there is no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def device_module(device: str) -> ModuleType:
    """Return numpy, or cupy with the CUDA kernels registered. Raises like `resolve_device`."""
    if resolve_device(device) == "cpu":
        return np
    from . import cuda

    return cuda.cupy


def to_device(tree: Tree, device: str) -> Tree:
    """Copy the arrays of a tree to a device. Arrays on this device are not copied."""
    xp = device_module(device)
    return map_tree(to_host if xp is np else xp.asarray, tree)


def set_matmul_precision(precision: str) -> None:
    """Set the precision of all matrix products of float32 arrays on a GPU, in the whole process.

    The factors have 23 mantissa bits with "float32" (the default), 10 with "tf32" and 7 with
    "bfloat16". Sums are accumulated in float32. Raises NoGPUError, or ValueError for another name.
    """
    device_module("gpu")
    from .cuda.arrays import set_matmul_precision

    set_matmul_precision(precision)


def create_uploader() -> "Uploader":
    """Return an object that copies arrays to the GPU while it computes. Raises NoGPUError."""
    device_module("gpu")
    from .cuda.transfer import Uploader

    return Uploader()


def is_gpu_out_of_memory(error: MemoryError) -> bool:
    """Return whether GPU memory, not host memory, is exhausted."""
    return type(error).__name__ == "OutOfMemoryError"  # of CuPy


def available_gpu_memory() -> int:
    """Return the bytes of GPU memory that are free or in CuPy's pool. Raises NoGPUError."""
    xp = device_module("gpu")
    free, _ = xp.cuda.runtime.memGetInfo()
    return free + xp.get_default_memory_pool().total_bytes()
