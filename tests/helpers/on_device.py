"""The array modules of the device tests, and functions that run a layer on their arrays.

`xp` runs the readable layers on arrays with the restrictions of CuPy. `cupy` runs the CUDA kernels
on the CPU. With `pytest --device gpu`, both are CuPy itself.
"""

import os

import numpy as np

from minivit.devices import device_module
from minivit.tree import flatten

ON_GPU = os.environ.get("MINIVIT_TEST_DEVICE") == "gpu"

if ON_GPU:
    xp = cupy = device_module("gpu")
else:
    from helpers import emulated_cupy as cupy  # noqa: F401
    from helpers import strict as xp  # noqa: F401


def convert(argument, change):
    """Apply change(array) to the NumPy arrays of a tree or tuple."""
    if isinstance(argument, dict):
        return {name: convert(branch, change) for name, branch in argument.items()}
    if isinstance(argument, (list, tuple)):
        return type(argument)(convert(branch, change) for branch in argument)
    return change(argument) if isinstance(argument, np.ndarray) else argument


def cast(argument, *dtypes):
    """Cast arrays of floats to each of these dtypes in turn."""
    for dtype in dtypes:
        argument = convert(argument, lambda a: a.astype(dtype) if a.dtype.kind == "f" else a)  # noqa: B023
    return argument


def run_layer(function, arguments, dtype, rounded=None, asarray=np.asarray):
    """Return {name: array} with the value and all gradients of a layer, for a random cotangent.

    The arguments and the cotangent are rounded to the dtype `rounded`, cast to `dtype` and then
    converted by `asarray`.
    """
    arguments = convert(cast(arguments, rounded or dtype, dtype), asarray)
    value, pullback = function(*arguments)
    dy = np.asarray(np.random.default_rng(100).normal(size=value.shape))
    gradients = pullback(asarray(cast(dy, rounded or dtype, dtype)))
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    return {"value": value} | {
        f"gradient {i}/{name}".rstrip("/"): array
        for i, tree in enumerate(gradients)
        for name, array in flatten(tree).items()
    }


def assert_close(actual, expected, dtype, tolerance, array_type=np.ndarray, floor=0.0):
    """Assert that named arrays have this dtype, type and shape, and agree with the reference.

    The tolerance is relative to the largest entry of the reference, and at least to `floor`.
    """
    assert actual.keys() == expected.keys()
    for name, reference in expected.items():
        array = actual[name]
        assert isinstance(array, (array_type, np.generic)), f"{name} is on another device"
        assert (array.dtype, array.shape) == (dtype, reference.shape), name
        host = array.get() if hasattr(array, "get") else array
        difference = abs(host.astype(reference.dtype) - reference).max(initial=0)
        allowed = tolerance * max(abs(reference).max(initial=0), floor)
        assert difference <= allowed, f"{name} differs by {difference:.1e} (allowed {allowed:.1e})"
