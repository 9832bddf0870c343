"""Text output that is safe for a terminal and tolerates missing and closed streams."""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

# Control characters, line and paragraph separators, bidirectional formatting characters, and
# surrogates, which represent the bytes of a file name that is not UTF-8.
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
KEPT = "\n\t"  # by `SafeStream`; `escape` replaces them by default


def escape(text: Any, kept: str = "") -> str:
    r"""Replace unsafe characters with escape sequences such as \x1b. The result is one line.

    A file name or an array name could otherwise clear the screen or imitate other output.
    """

    def replace(match: re.Match[str]) -> str:
        character = match[0]
        return character if character in kept else ascii(character)[1:-1]

    return UNSAFE.sub(replace, str(text))


def shorten(text: str, length: int) -> str:
    """Replace the middle of a longer text by dots. Values in a message may have any length."""
    return text if len(text) <= length else f"{text[: length * 3 // 4]}...{text[-length // 4 :]}"


class SafeStream:
    """A text stream that escapes unsafe characters and ignores errors of a closed terminal.

    raw: the stream without the escapes, for progress bars, which move the cursor.
    """

    def __init__(self, stream: Any, raw: "SafeStream | None" = None) -> None:
        self.stream = stream
        self.raw = raw or self

    def write(self, text: str) -> int:
        """Write text and return its length. Raises other OSErrors of the stream."""
        with ignore_closed_terminal():
            self.stream.write(text if self.raw is self else escape(text, KEPT))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with ignore_closed_terminal():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def ignore_closed_terminal() -> Iterator[None]:
    """Ignore the write error of a terminal that has been closed."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Make stdout and stderr safe. A missing stream is replaced by one that discards its text.

    Characters that a stream cannot encode are written as escape sequences.
    """
    streams = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, SafeStream(stream, SafeStream(stream)))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        sys.stdout, sys.stderr = streams


def progress_bar(**options: Any) -> tqdm:
    """Return a progress bar on stderr. It is disabled if stderr is not a terminal."""
    return tqdm(file=_raw_stderr(), disable=None if sys.stderr else True, **options)


def print_message(text: str) -> None:
    """Print one line to stderr, above the progress bars."""
    if sys.stderr:
        tqdm.write(escape(text), file=_raw_stderr())


def _raw_stderr() -> Any:
    return getattr(sys.stderr, "raw", sys.stderr)
