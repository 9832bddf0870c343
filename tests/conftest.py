"""The option `--device` and the fixture `gpu` of the device tests."""

import os
import signal
import sys

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        choices=["cpu", "gpu"],
        default="cpu",
        help="device of the GPU tests: the CPU, which emulates one, or a GPU (default: cpu)",
    )


def pytest_configure(config):
    os.environ["MINIVIT_TEST_DEVICE"] = config.getoption("--device")  # read by helpers/on_device.py
    # Background jobs of a shell ignore SIGINT, which some tests send to this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in getattr(item, "fixturenames", ()):
            item.add_marker("gpu")


@pytest.fixture(autouse=True)
def _close_figures():
    """Close the figures that pyplot manages after each test."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture
def gpu(monkeypatch):
    """Provide CuPy, real or emulated, with the CUDA kernels registered."""
    from helpers.on_device import ON_GPU, cupy

    if not ON_GPU:
        if cupy.COMPILER is None:
            pytest.skip("g++, which compiles CUDA kernels for the CPU, is not installed")
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "cupyx", cupy.cupyx)
    from minivit import cuda

    yield cupy
    cuda.arrays.set_matmul_precision("float32")
