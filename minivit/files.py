"""File errors, and atomic file writes."""

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .terminal import escape, shorten

DAY = 24 * 3600  # seconds
SYSTEM_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # not caused by the file
MAX_MESSAGE = 1_000  # characters
TOKEN = 8  # hexadecimal digits in the name of a temporary file


class FileError(ValueError):
    """A file is damaged or does not have the expected content. The message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(escape(shorten(message, MAX_MESSAGE)))


def is_system_error(error: Exception) -> bool:
    """Return whether an error is caused by a lack of memory or file descriptors, not by a file."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in SYSTEM_ERRORS


def write_atomically(path: str | Path, write: Callable[[Any], None]) -> None:
    """Call write(file) with a temporary file, then rename it to `path`, replacing any old file.

    The file has the permissions of a new file, and a symbolic link is replaced and not followed.
    Temporary files of processes that were killed are deleted after a day. Raises OSError if the
    folder cannot be written.
    """
    path = Path(path)
    temporary = path.parent / f"{path.name[:200]}.{secrets.token_hex(TOKEN // 2)}.tmp"
    try:
        if path.exists() and not path.is_file():  # a device or a pipe, which must not be replaced
            with open(path, "wb") as file:
                write(file)
            return
        remove_temporary_files(path, DAY)
        try:
            with open(temporary, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # missing if interrupted after the rename
            raise
    except OSError as error:  # report the path of the file, not of the temporary one
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def remove_temporary_files(path: Path, age: float) -> None:
    """Delete the temporary files of `write_atomically` for this path older than `age` seconds."""
    pattern = re.compile(re.escape(path.name[:200]) + rf"\.[0-9a-f]{{{TOKEN}}}\.tmp")
    with contextlib.suppress(OSError):  # for example if another process deletes one first
        for name in filter(pattern.fullmatch, os.listdir(path.parent)):
            if time.time() - os.lstat(path.parent / name).st_mtime >= age:
                os.unlink(path.parent / name)
