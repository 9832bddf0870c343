"""The folder in which downloaded data sets lie, MNIST as in torchvision's, CIFAR as unpacked.

No data set in it is ever half done: files are made in a folder of one's own inside, and moved.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_path

OWN, DAY = "downloading-", 24 * 3600  # folders of a process's own; seconds
AGAIN = "remove it to have it downloaded again"  # for the end of an error's line


def cache_folder() -> Path:
    """$MINIVIT_DATA, or the platform's place for what can be downloaded again."""
    named = os.environ.get("MINIVIT_DATA")
    return Path(named).expanduser() if named else user_cache_path("minivit", appauthor=False)


def check_cache_path(folder: Path) -> None:
    """Raise NotADirectoryError if something else than a folder stands there, or on the way."""
    for step in (folder, *folder.parents):
        if step.exists() and not step.is_dir():
            raise NotADirectoryError(
                f"{step} is no folder: move it away, or name another cache with MINIVIT_DATA"
            )


@contextmanager
def temporary_folder(root: Path) -> Iterator[Path]:
    """A folder in the cache that no other process uses; when the block ends, it is gone.

    One that a killed process has left goes, too, once nothing was written there for a day. Raises
    OSError if the cache cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_stale_folders(root)
        own = tempfile.mkdtemp(prefix=OWN, dir=root)
    except OSError as error:
        raise OSError(
            f"the cache {root} cannot be written ({error.strerror}): name another with MINIVIT_DATA"
        ) from None
    try:
        yield Path(own)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def remove_stale_folders(root: Path) -> None:
    """Remove the folders that killed processes have left, once they are a day old."""
    for left in root.glob(f"{OWN}*"):
        with suppress(OSError):  # another process is sweeping, too
            if time.time() - max(path.stat().st_mtime for path in [left, *left.iterdir()]) > DAY:
                shutil.rmtree(left)


@contextmanager
def report_write_errors(name: str, size: int, root: Path) -> Iterator[None]:
    """Whatever keeps a file from being written: raised as an OSError that tells the room it needs.

    A ConnectionError, which is no fault of the disk, passes.
    """
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise OSError(
            f"{name} cannot be written to {root}: {error.strerror} (it needs {size:,} bytes)"
        ) from None
