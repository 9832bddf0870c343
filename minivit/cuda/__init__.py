"""Faster versions of some functions for CuPy arrays, in files named like those they replace.

Importing this package registers the versions with `functools.singledispatch`; NumPy arrays still
use the readable functions. `devices.py` imports it when a GPU is requested. The kernels are strings
of CUDA C++, which CuPy compiles when they are first used.
"""

import cupy  # pyright: ignore[reportMissingImports]

from . import arrays, gelu, layer_norm, linear, losses, mlp, optim, softmax

__all__ = ["arrays", "cupy", "gelu", "layer_norm", "linear", "losses", "mlp", "optim", "softmax"]
