"""`pytest --device gpu`: the tests of the swap use CuPy's arrays and not the stand-ins."""

import os
import signal


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        choices=["cpu", "gpu"],
        default="cpu",
        help="whose arrays test the swap: stand-ins on the CPU, or CuPy's on a GPU (cpu)",
    )


def pytest_configure(config):
    os.environ["MINIVIT_TEST_DEVICE"] = config.getoption("--device")  # read by `on_device.py`
    # A shell lets its background jobs ignore Ctrl-C, and tests send it to this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
