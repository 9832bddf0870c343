"""The faster layers: what stands in `arrays`, `layers` and `training` once more, for a GPU.

Each file here has the name of the one whose functions it replaces, and importing it does so: an
array of CuPy then finds the kernel, an array of NumPy what it has always found. `devices.py`
imports this package when somebody asks for a GPU. The kernels are C++, in strings; CuPy compiles
one when it is first used.
"""

import cupy

from . import arrays, gelu, layer_norm, linear, losses, mlp, softmax
from . import optim as optimisers

__all__ = [
    "arrays",
    "cupy",
    "gelu",
    "layer_norm",
    "linear",
    "losses",
    "mlp",
    "optimisers",
    "softmax",
]
