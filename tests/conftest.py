"""`pytest --device gpu`: the tests of the swap use CuPy's arrays and not the stand-ins."""

import os


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        choices=["cpu", "gpu"],
        default="cpu",
        help="whose arrays test the swap: stand-ins on the CPU, or CuPy's on a GPU (cpu)",
    )


def pytest_configure(config):
    os.environ["MINIVIT_TEST_DEVICE"] = config.getoption("--device")  # read by `on_device.py`
