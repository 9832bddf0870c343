"""CUDA versions of some functions for CuPy arrays, in files of the same names.

Importing this package registers them with `functools.singledispatch`; NumPy arrays still use the
readable functions. `devices.py` imports it when a GPU is requested. The kernels are strings of CUDA
C++, which CuPy compiles when they are first used.
"""

import cupy  # pyright: ignore[reportMissingImports]

from . import arrays, gelu, layer_norm, linear, losses, mlp, optim, softmax

__all__ = ["arrays", "cupy", "gelu", "layer_norm", "linear", "losses", "mlp", "optim", "softmax"]
