"""The folder in which downloaded data sets lie, MNIST as in torchvision's, CIFAR as unpacked.

Nothing half done is ever seen in it: files are made in a folder of one's own inside, and moved.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

AGAIN = "remove it to have it downloaded again"  # for the end of an error's line


def cache_folder() -> Path:
    """$MINIVIT_DATA, or the platform's place for what can be downloaded again."""
    named = os.environ.get("MINIVIT_DATA")
    return Path(named).expanduser() if named else user_cache_path("minivit", appauthor=False)


def must_be_free(folder: Path) -> None:
    """Raise NotADirectoryError if something else than a folder stands there, or on the way."""
    for step in (folder, *folder.parents):
        if step.exists() and not step.is_dir():
            raise NotADirectoryError(
                f"{step} is no folder: move it away, or name another cache with MINIVIT_DATA"
            )


@contextmanager
def own_folder(root: Path) -> Iterator[Path]:
    """A folder in the cache that no other process uses; when the block ends, it is gone.

    Raises OSError if the cache cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        own = tempfile.mkdtemp(prefix="downloading-", dir=root)
    except OSError as error:
        raise OSError(
            f"the cache {root} cannot be written ({error.strerror}): name another with "
            "MINIVIT_DATA"
        ) from None
    try:
        yield Path(own)
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def writing(name: str, size: int, root: Path) -> Iterator[None]:
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
