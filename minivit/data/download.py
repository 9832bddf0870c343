"""Download published files: resumable, and verified by size and MD5."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from .cache import temporary_folder

TIMEOUT = 30  # seconds without data
CHUNK = 1 << 16  # bytes per read
RANGE_NOT_SATISFIABLE = 416  # HTTP status: the requested range starts after the end of the file


class RemoteFile(NamedTuple):
    """A published file: URL, size in bytes and MD5."""

    url: str
    size: int
    md5: str

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]


@contextmanager
def download(remote: RemoteFile, root: Path, alternative: str) -> Iterator[Path]:
    """Download a file to a temporary folder and yield its path. Move it before the block ends.

    After a network failure or Ctrl-C, the bytes received so far remain in the cache `root` as
    NAME.MD5.part, and the next call resumes from them. Raises ConnectionError, whose message ends
    with the alternative, ValueError for other content, and OSError if the file cannot be written.
    """
    partial = root / f"{remote.name}.{remote.md5[:8]}.part"
    with temporary_folder(root, remote.name, remote.size) as folder:
        file = folder / remote.name
        with suppress(FileNotFoundError):
            os.replace(partial, file)  # only one of several processes succeeds
        try:
            complete_download(file, remote)
            yield file
        except ConnectionError as error:
            kept = keep_partial(file, partial)
            message = f"cannot download {remote.url}: {error}{kept}; without a network, "
            raise ConnectionError(message + alternative) from None
        except KeyboardInterrupt:
            print(f"\n{remote.name}: interrupted{keep_partial(file, partial)}", file=sys.stderr)
            raise


def keep_partial(file: Path, partial: Path) -> str:
    """Move an incomplete file to where the next call finds it, and describe it for a message."""
    if not file.exists() or not file.stat().st_size:
        return ""
    os.replace(file, partial)
    return f" ({partial.stat().st_size:,} bytes are kept in {partial})"


def complete_download(file: Path, remote: RemoteFile) -> None:
    """Complete a file, of which a part may exist, and verify it.

    Raises ConnectionError, or ValueError for other content; the file is empty then.
    """
    file.touch()
    while True:
        resumed = file.stat().st_size > 0
        transfer(file, remote)
        if compute_md5(file) == remote.md5:
            return
        file.write_bytes(b"")
        if not resumed:  # otherwise the existing part may have been wrong: start again
            raise ValueError(
                f"{remote.url} is not the published file of {remote.size:,} bytes with MD5 "
                f"{remote.md5}; nothing was kept"
            )


def transfer(file: Path, remote: RemoteFile) -> None:
    """Append the missing bytes, and reconnect as long as each connection delivers some."""
    while (start := file.stat().st_size) < remote.size:
        progress = tqdm(
            total=remote.size, initial=start, desc=remote.name,
            unit="B", unit_scale=True, leave=False, disable=None,
        )  # fmt: skip
        try:
            with file.open("r+b") as out, progress:
                for offset, chunk in read_chunks(remote, start):
                    out.seek(offset)
                    out.write(chunk)
                    progress.update(out.tell() - progress.n)
                    if out.tell() > remote.size:  # this is another file, and may be endless
                        return
            return
        except ConnectionError:
            if file.stat().st_size == start:
                raise


def read_chunks(remote: RemoteFile, start: int) -> Iterator[tuple[int, bytes]]:
    """Request a file from byte `start` on and yield (offset, bytes).

    Offsets begin at 0 if the server does not support ranges. Raises ConnectionError for every
    failure, and for a redirection from HTTPS to another protocol.
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
            raise ConnectionError(str(error)) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        text = str(getattr(reason, "strerror", None) or reason)
        raise ConnectionError(" ".join(text.split())) from None  # on one line


def compute_md5(file: Path) -> str:
    """Return the MD5 of a file. It detects accidental damage, not forgery."""
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
