"""The cache of downloaded data sets, and downloads that are resumable and verified by their MD5.

Files are written to a temporary folder and moved into place when they are complete.
"""

import gzip
import hashlib
import os
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from platformdirs import user_cache_path

from ..files import DAY, FileError
from ..terminal import escape, print_message, progress_bar

PREFIX = "downloading-"  # of temporary folders
TIMEOUT = 30  # seconds without data
CHUNK = 1 << 16  # bytes per read
RANGE_NOT_SATISFIABLE = 416  # HTTP status: the requested range starts after the end of the file
DAMAGED_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)
DELETE = "delete it to download it again"  # the end of error messages about a file


def open_cache(root: str | Path | None, name: str) -> tuple[Path, Path]:
    """Return the cache folder and the folder of a data set in it.

    The cache is root or, if it is not set, $MINIVIT_DATA or the platform's cache folder.
    Raises NotADirectoryError if one of the folders, or a parent, is a file.
    """
    root = root or os.environ.get("MINIVIT_DATA")
    cache = Path(root).expanduser() if root else user_cache_path("minivit", appauthor=False)
    for path in (cache / name, *(cache / name).parents):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(
                f"{path} is not a folder: move it, or set MINIVIT_DATA to another cache folder"
            )
    return cache, cache / name


@contextmanager
def temporary_folder(root: Path, name: str, size: int) -> Iterator[Path]:
    """Create a temporary folder in the cache, and delete it at the end of the block.

    name, size: the file that the block writes, and its size in bytes for the error message.
    Temporary folders of killed processes are deleted one day after their last change.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        for stale in root.glob(f"{PREFIX}*"):
            with suppress(OSError):  # another process may delete it at the same time
                modified = max(path.stat().st_mtime for path in [stale, *stale.iterdir()])
                if time.time() - modified > DAY:
                    shutil.rmtree(stale)
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=root)
    except OSError as error:
        advice = "set MINIVIT_DATA to another cache folder"
        raise OSError(f"cannot write to the cache {root} ({error.strerror}): {advice}") from None
    try:
        yield Path(folder)
    except OSError as error:
        if error.errno is None:  # raised by this package, with a message
            raise
        needed = f"({size:,} bytes are needed)"
        raise OSError(f"cannot write {name} to {root}: {error.strerror} {needed}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class RemoteFile(NamedTuple):
    """A published file: URL, size in bytes and MD5."""

    url: str
    size: int
    md5: str

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    def matches(self, file: Path) -> bool:
        """Return whether a file has this MD5, which detects accidental damage but not forgery."""
        return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() == self.md5


@contextmanager
def download(remote: RemoteFile, root: Path, alternative: str) -> Iterator[Path]:
    """Download a file to a temporary folder and yield its path. Move it before the block ends.

    After a network failure or Ctrl-C, the received bytes remain in the cache `root` as
    NAME.MD5.part, and the next call resumes from them. Raises ConnectionError, whose message ends
    with `alternative`, FileError for unexpected content, and OSError if the file cannot be written.
    """
    partial = root / f"{remote.name}.{remote.md5[:8]}.part"
    with temporary_folder(root, remote.name, remote.size) as folder:
        file = folder / remote.name
        with suppress(FileNotFoundError):
            os.replace(partial, file)  # only one of several processes succeeds
            # In a shared cache, a link may point to a file that should not be overwritten.
            if not stat.S_ISREG(file.lstat().st_mode) or file.lstat().st_nlink > 1:
                file.unlink()
        try:
            complete_download(file, remote)
            yield file
        except ConnectionError as error:
            message = f"cannot download {remote.url}: {error}{keep_partial(file, partial)}"
            raise ConnectionError(f"{message}; without a network, {alternative}") from None
        except KeyboardInterrupt:
            print_message(f"{remote.name}: interrupted{keep_partial(file, partial)}")
            raise


def keep_partial(file: Path, partial: Path) -> str:
    """Move an incomplete file to the cache, and return a note about it for a message."""
    if not file.exists() or not file.stat().st_size:
        return ""
    os.replace(file, partial)
    return f" ({partial.stat().st_size:,} bytes are kept in {partial})"


def complete_download(file: Path, remote: RemoteFile) -> None:
    """Download the rest of a file, or all of it, and verify it.

    Raises ConnectionError, or FileError for unexpected content. In the latter case, the file is
    emptied.
    """
    file.touch()
    resumed = file.stat().st_size > 0
    transfer(file, remote)
    if remote.matches(file):
        return
    file.write_bytes(b"")
    if not resumed:
        raise FileError(
            f"{remote.url} is not the published file of {remote.size:,} bytes with MD5 "
            f"{remote.md5}; nothing was kept"
        )
    complete_download(file, remote)  # the existing part may have been wrong


def transfer(file: Path, remote: RemoteFile) -> None:
    """Append the missing bytes. Reconnect as long as each connection delivers some of them."""
    while (start := file.stat().st_size) < remote.size:
        progress = progress_bar(
            total=remote.size, initial=start, desc=remote.name,
            unit="B", unit_scale=True, leave=False,
        )  # fmt: skip
        try:
            with file.open("r+b") as out, progress:
                for offset, chunk in read_chunks(remote, start):
                    out.seek(offset)
                    out.write(chunk)
                    progress.update(out.tell() - progress.n)
                    if out.tell() > remote.size:  # this is another file, perhaps an endless one
                        return
            return
        except ConnectionError:
            if file.stat().st_size == start:
                raise


def read_chunks(remote: RemoteFile, start: int) -> Iterator[tuple[int, bytes]]:
    """Request a file from byte `start` and yield (offset, bytes).

    Offsets start at 0 if the server does not support ranges. Raises ConnectionError for every
    failure, and for a redirect from HTTPS to another protocol.
    """
    headers = {"User-Agent": "minivit", "Range": f"bytes={start}-"}
    try:
        with urlopen(Request(remote.url, headers=headers), timeout=TIMEOUT) as response:
            if remote.url.startswith("https:") and not response.url.startswith("https:"):
                raise ConnectionError(f"it redirects from HTTPS to {response.url}")
            offset = start if response.status == 206 else 0  # 206: partial content
            unknown_length = response.length is None
            while chunk := response.read(CHUNK):
                yield offset, chunk
                offset += len(chunk)
            if response.length or (unknown_length and offset < remote.size):
                raise ConnectionError("the connection was closed too early")
    except HTTPError as error:
        error.close()
        if error.code != RANGE_NOT_SATISFIABLE:
            raise ConnectionError(escape(error)) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        text = str(getattr(reason, "strerror", None) or reason)
        raise ConnectionError(escape(" ".join(text.split()))) from None  # on one line
