"""A lock on the folder of a training run, so that only one process writes to it."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ..files import remove_temporary_files

if sys.platform != "win32":  # on Windows, folders are not locked
    import fcntl

LOCK = "run.lock"
_locked: set[Path] = set()  # folders that this process has locked


class LockedError(RuntimeError):
    """Another process is training in the folder."""


@contextlib.contextmanager
def lock_folder(folder: str | Path, outputs: tuple[str, ...] = ()) -> Iterator[None]:
    """Lock a folder for the duration of the block. The lock is reentrant within a process.

    The operating system releases the lock of a killed process. The next process that locks the
    folder deletes the temporary files left for `outputs`. Raises LockedError, whose message names
    the process that holds the lock, and OSError if the folder cannot be created or written.
    """
    folder = Path(folder).resolve()
    if folder in _locked or sys.platform == "win32":
        yield
        return
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    try:
        with _open_locked(path) as file:
            file.truncate(0)
            file.write(f"{os.getpid()} {socket.gethostname()} {time.time():.0f}")
            file.flush()
            _locked.add(folder)
            try:
                for name in outputs:
                    remove_temporary_files(folder / name, age=0)
                yield
            finally:
                _locked.remove(folder)
                path.unlink(missing_ok=True)
    finally:
        for created in missing:  # remove the created folders that are still empty
            with contextlib.suppress(OSError):
                created.rmdir()


def _open_locked(path: Path) -> TextIO:
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise LockedError(_describe_holder(path, file)) from None
        except OSError:  # the file system does not support locks
            return file
        # The process that held the lock may have deleted the file before this one locked it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()


def _describe_holder(path: Path, file: TextIO) -> str:
    file.seek(0)
    holder, text = file.read().split(), "another process"
    if len(holder) == 3:
        pid, host, started = holder
        where = "" if host == socket.gethostname() else f" on {host}"
        text = f"process {pid}{where}, which started {format_age(time.time() - float(started))} ago"
    return f"{path.parent} is in use by {text}. Wait for it, or choose another folder with --out"


def format_age(seconds: float) -> str:
    """Format a duration in a suitable unit, such as 90 s, 5 min or 3 h."""
    for size, unit in ((24 * 3600, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
