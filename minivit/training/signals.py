"""Ctrl-C, SIGTERM and SIGHUP: finish the current step before the program stops."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP


class Interrupted(KeyboardInterrupt):
    """A signal interrupted the program."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number  # of the signal


@contextlib.contextmanager
def handle_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Call handler(number, frame) for each of the three signals inside the block.

    Ignored signals remain ignored, for example SIGHUP after `nohup`. Outside the main thread, which
    receives all signals, this has no effect.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        handled = [n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
        previous = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, old_handler in previous.items():
            signal.signal(number, old_handler)


def raise_interrupted(number: int, frame: Any) -> None:
    """Raise Interrupted. This is a signal handler."""
    raise Interrupted(number)


class DeferredSignals:
    """A signal handler that records the first signal. A second one raises Interrupted at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferred = True

    def __call__(self, number: int, frame: Any) -> None:
        """Handle a signal."""
        if not self.deferred or self.received is not None:
            raise Interrupted(number)
        self.received = number

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """Raise Interrupted for a signal inside the block, or for one that has been recorded."""
        self.deferred = False
        try:
            if self.received is not None:
                raise Interrupted(self.received)
            yield
        finally:
            self.deferred = True
