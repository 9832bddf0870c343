"""Whose arrays test the swap.

`xp` is the module for the layers as they stand: the strict stand-in. `cupy` is the one for the
kernels: CuPy emulated on the CPU. With `pytest --device gpu` both are CuPy itself, whose arrays
find the kernels wherever there are some.
"""

import os
import sys

import numpy as np
import pytest

from minivit.devices import device_module, set_matmul_precision

ON_GPU = os.environ.get("MINIVIT_TEST_DEVICE") == "gpu"

if ON_GPU:
    xp = cupy = device_module("gpu")
else:
    from helpers import emulated_cupy as cupy
    from helpers import strict as xp  # noqa: F401

needs_compiler = pytest.mark.skipif(
    not ON_GPU and cupy.COMPILER is None, reason="to run CUDA kernels on the CPU takes g++"
)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as minivit sees it: `device="gpu"` works, on the CPU too. Products are of float32."""
    if not ON_GPU:
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "cupyx", cupy.cupyx)
    yield cupy
    set_matmul_precision("float32")


def convert(thing, change):
    """`thing` with every array of NumPy in it changed, in trees and tuples too."""
    if isinstance(thing, dict):
        return {name: convert(branch, change) for name, branch in thing.items()}
    if isinstance(thing, (list, tuple)):
        return type(thing)(convert(branch, change) for branch in thing)
    return change(thing) if isinstance(thing, np.ndarray) else thing
