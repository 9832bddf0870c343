"""CUDA implementations of selected functions for CuPy arrays.

A module accelerates the functions of the NumPy module of the same name. Importing the package
registers them with `functools.singledispatch`; NumPy arrays still use the NumPy implementations.
`devices.py` imports it when a GPU is requested. The kernels are CUDA C++ source strings, which CuPy
compiles on first use.
"""

import cupy  # pyright: ignore[reportMissingImports]

from . import arrays, gelu, layer_norm, linear, losses, mlp, optim, softmax

__all__ = ["arrays", "cupy", "gelu", "layer_norm", "linear", "losses", "mlp", "optim", "softmax"]
