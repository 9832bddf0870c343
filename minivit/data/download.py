"""Files from the network: whole, as they were published, or not at all."""

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from .cache import report_write_errors, temporary_folder

TIMEOUT = 30  # seconds without a byte
PIECE = 1 << 16  # bytes read at once
RANGE_NOT_SATISFIABLE = 416  # the file ends before the place that was asked for


class Published(NamedTuple):
    """A file that others publish: its address, its size in bytes, its MD5."""

    address: str
    size: int
    md5: str

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.rpartition("/")[2]


@contextmanager
def download(published: Published, root: Path, instead: str) -> Iterator[Path]:
    """A published file, whole, in a folder of our own: move it away before the block ends.

    What has come before the network failed for good, or Ctrl-C, stays in the cache `resnet_root` as
    NAME.MD5.part, and the next call goes on from it.
    instead: what can be done without a network, for the end of the error's line.
    Raises ConnectionError, ValueError for another file than was published, and OSError if it
    cannot be written.
    """
    left = root / f"{published.name}.{published.md5[:8]}.part"
    with temporary_folder(root) as own:
        file = own / published.name
        with suppress(FileNotFoundError):
            os.replace(left, file)  # of two processes one gets it
        try:
            with report_write_errors(published.name, published.size, root):
                complete_download(file, published)
            yield file
        except ConnectionError as error:
            kept = save_partial(file, left)
            raise ConnectionError(
                f"{published.address} cannot be downloaded: {error}{kept}; {instead}"
            ) from None
        except KeyboardInterrupt:
            print(f"\n{published.name}: interrupted{save_partial(file, left)}", file=sys.stderr)
            raise


def manual_instructions(files: Sequence[Published], folder: Path) -> str:
    """What to do without a network, in words."""
    addresses = " ".join(published.address for published in files)
    return f"without a network, put into {folder} what lies at {addresses}"


def save_partial(file: Path, left: Path) -> str:
    """Leave to the next call what has come so far; says so, after a comma."""
    if not file.exists() or not file.stat().st_size:
        return ""
    os.replace(file, left)
    return f", {left} keeps {left.stat().st_size:,} bytes to go on from"


def complete_download(file: Path, published: Published) -> None:
    """Bring a file, of which a part may be there, to its published end, and check it.

    Raises ConnectionError, or ValueError if it is another; then it is empty.
    """
    file.touch()
    while True:
        begun = file.stat().st_size
        if begun < published.size:
            transfer(file, published)
        if compute_md5(file) == published.md5:
            return
        file.write_bytes(b"")
        if not begun:  # else the part was to blame
            raise ValueError(
                f"{published.address} is not the file that was published: its size or its MD5 "
                f"is another than {published.size:,} bytes, {published.md5}; nothing was kept"
            )


def transfer(file: Path, published: Published) -> None:
    """Append what is missing; a broken connection is taken up again while each brings some more.

    Raises ConnectionError if one brings nothing.
    """
    while True:
        begun = file.stat().st_size
        try:
            with (
                file.open("r+b") as out,
                tqdm(
                    total=published.size, initial=begun, desc=published.name,
                    unit="B", unit_scale=True, leave=False, disable=None,
                ) as bar,
            ):  # fmt: skip
                for place, piece in read_response(published, begun):
                    out.seek(place)
                    out.write(piece)
                    bar.update(out.tell() - bar.n)
                    if out.tell() > published.size:  # no end of it: another file
                        return
            return
        except ConnectionError:
            if file.stat().st_size == begun:
                raise


def read_response(published: Published, begun: int) -> Iterator[tuple[int, bytes]]:
    """What lies at its address from a byte on, in pieces, each with its place in the file.

    A server that knows no ranges sends all of it: the places then begin at 0. Raises
    ConnectionError with the reason, whatever it was; from HTTPS no server may lead away.
    """
    address = published.address
    headers = {"User-Agent": "minivit", "Range": f"bytes={begun}-"}
    try:
        with urlopen(Request(address, headers=headers), timeout=TIMEOUT) as response:
            if address.startswith("https:") and not response.url.startswith("https:"):
                raise ConnectionError(f"it leads away from HTTPS, to {response.url}")
            place = begun if response.status == 206 else 0
            told = response.length is not None
            while piece := response.read(PIECE):
                yield place, piece
                place += len(piece)
            if response.length or (not told and place < published.size):
                raise ConnectionError("the connection broke off")
    except HTTPError as error:
        error.close()
        if error.code != RANGE_NOT_SATISFIABLE:
            raise ConnectionError(str(error)) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        said = str(getattr(reason, "strerror", None) or reason)
        raise ConnectionError(" ".join(said.split())) from None  # one line, whatever was sent


def compute_md5(file: Path) -> str:
    """The MD5 of a file: against accidents, as its publisher gives it, not against forgers."""
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as content:
        while piece := content.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
