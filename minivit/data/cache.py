"""The folder of downloaded data sets: atomic updates, and safe extraction of archives.

Files are written to a temporary folder and then moved, so that the cached files are complete.
"""

import gzip
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from platformdirs import user_cache_path

TEMPORARY, DAY = "downloading-", 24 * 3600  # prefix of temporary folders; seconds
DAMAGED_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)
DELETE = "delete it to download it again"  # ends an error message about a file


def open_cache(root: str | Path | None, name: str) -> tuple[Path, Path]:
    """Return the cache folder and the folder of a data set in it.

    The cache is root if it is set, else $MINIVIT_DATA, else the cache folder of the platform.
    Raises NotADirectoryError if one of the folders, or a parent, is another kind of file.
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

    Folders of killed processes are deleted a day after their last change. An OSError in the block,
    while the file `name` is written, is raised again with the required `size` in bytes.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        for stale in root.glob(f"{TEMPORARY}*"):
            with suppress(OSError):  # another process may delete it at the same time
                modified = max(path.stat().st_mtime for path in [stale, *stale.iterdir()])
                if time.time() - modified > DAY:
                    shutil.rmtree(stale)
        folder = tempfile.mkdtemp(prefix=TEMPORARY, dir=root)
    except OSError as error:
        raise OSError(
            f"cannot write to the cache {root} ({error.strerror}): set MINIVIT_DATA to another "
            "cache folder"
        ) from None
    try:
        yield Path(folder)
    except OSError as error:
        if error.errno is None:  # raised by this package, with a message
            raise
        raise OSError(
            f"cannot write {name} to {root}: {error.strerror} ({size:,} bytes are needed)"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(archive: Path, sizes: dict[str, int | None], folder: Path) -> None:
    """Extract the entries named in `sizes` from a .tar.gz, each to folder / its last name part.

    sizes: the size of each entry in bytes, or None for any size. Raises ValueError if the archive
    is damaged, lacks an entry, or contains an unsafe one. Some files may have been extracted then.
    """
    missing = set(sizes)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for entry in tar:
                check_entry(entry, archive.name)
                name = str(PurePosixPath(entry.name))  # without a leading ./
                if name not in sizes or (stream := tar.extractfile(entry)) is None:
                    continue
                content = stream.read()
                if sizes[name] not in (None, len(content)):
                    raise ValueError(
                        f"{archive.name}: {name} has {len(content):,} bytes, not {sizes[name]:,}"
                    )
                (folder / PurePosixPath(name).name).write_bytes(content)
                missing.discard(name)
    except (tarfile.TarError, *DAMAGED_GZIP) as error:
        raise ValueError(f"{archive.name} is damaged or truncated: {error}") from None
    if missing:
        raise ValueError(f"{archive.name} is incomplete: it lacks {', '.join(sorted(missing))}")


def check_entry(entry: tarfile.TarInfo, archive: str) -> None:
    """Raise ValueError for a path outside the archive's folder, a link or a special file."""
    path = PurePosixPath(entry.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{archive} is unsafe: {entry.name!r} is outside its folder")
    if not (entry.isfile() or entry.isdir()):
        kind = "a link" if entry.issym() or entry.islnk() else "not a regular file"
        raise ValueError(f"{archive} is unsafe: {entry.name!r} is {kind}")
