"""Ctrl-C, SIGTERM and SIGHUP: finish the current step before the program stops."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
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
def handle_signals(handler: "SignalHandler") -> Iterator[None]:
    """Let the handler receive each of the three signals inside the block.

    Ignored signals remain ignored, for example SIGHUP after `nohup`. Outside the main thread, which
    receives all signals, this has no effect.
    """
    previous, hook = {}, sys.unraisablehook

    def report_unraisable(unraisable: Any) -> None:
        if unraisable.exc_type is not Interrupted:  # the handler has already recorded it
            hook(unraisable)

    if threading.current_thread() is threading.main_thread():
        handled = [n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
        previous = {number: signal.signal(number, handler) for number in handled}
        sys.unraisablehook = report_unraisable
    try:
        yield
    finally:
        for number, old_handler in previous.items():
            signal.signal(number, old_handler)
        sys.unraisablehook = hook


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted for a signal inside the block."""
    handler = SignalHandler()
    with handle_signals(handler), handler.immediate():
        yield


class SignalHandler:
    """A signal handler that records the first signal. A second one raises Interrupted at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferred = True

    def __call__(self, number: int, frame: Any) -> None:
        """Handle a signal."""
        first, self.received = self.received is None, number
        if not (first and self.deferred):
            raise Interrupted(number)

    def check(self) -> None:
        """Raise Interrupted if a signal has been recorded."""
        if self.received is not None:
            raise Interrupted(self.received)

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """Raise Interrupted for a signal inside the block, or for one that has been recorded.

        Python discards an exception that is raised in a destructor or a callback, and C code may
        replace it with another one. Therefore the end of the block checks the record.
        """
        self.deferred = False
        try:
            self.check()
            yield
        except Exception:
            self.check()
            raise
        finally:
            self.deferred = True
        self.check()
