"""Faster versions of some functions for CuPy arrays.

Each file has the name of the file whose functions it replaces. Importing it registers the versions
with `functools.singledispatch`; NumPy arrays still use the readable functions. `devices.py` imports
this package when a GPU is requested. The kernels are strings of CUDA C++, which CuPy compiles when
they are first used.
"""

import cupy

from . import arrays, gelu, layer_norm, linear, losses, mlp, optim, softmax

__all__ = [
    "arrays",
    "cupy",
    "gelu",
    "layer_norm",
    "linear",
    "losses",
    "mlp",
    "optim",
    "softmax",
]
