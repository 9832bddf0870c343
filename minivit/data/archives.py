"""Archives: the files that are expected come out, and nothing else."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

DAMAGED_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


def unpack(archive: Path, sizes: dict[str, int | None], folder: Path) -> None:
    """Write the entries named in `file_sizes` into a folder, each under the last part of its name.

    sizes: the bytes that each must have, None for any. Raises ValueError if the archive is
    damaged, lacks one of them, or holds a link or a name that leads out of the folder; then the
    folder may hold some of the files.
    """
    lacking = set(sizes)
    for name, content in iterate_entries(archive):
        if name not in sizes:
            continue
        if sizes[name] not in (None, len(content)):
            raise ValueError(
                f"{archive.name}: {name} has {len(content):,} bytes, not {sizes[name]:,}"
            )
        (folder / PurePosixPath(name).name).write_bytes(content)
        lacking.discard(name)
    if lacking:
        raise ValueError(f"{archive.name} is not whole: it lacks {', '.join(sorted(lacking))}")


def iterate_entries(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file in a .tar.gz. Raises ValueError, see `unpack`."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for entry in tar:
                check_entry(entry, archive)
                if entry.isfile():
                    yield str(PurePosixPath(entry.name)), tar.extractfile(entry).read()
    except (tarfile.TarError, *DAMAGED_GZIP) as error:
        raise ValueError(f"{archive.name} is damaged or truncated: {error}") from None


def check_entry(entry: tarfile.TarInfo, archive: Path) -> None:
    """Raise ValueError for what is no plain file or folder, and for a name that leads outside."""
    path = PurePosixPath(entry.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{archive.name} is not unpacked: {entry.name!r} would leave the folder")
    if not (entry.isfile() or entry.isdir()):
        kind = "a link" if entry.issym() or entry.islnk() else "neither file nor folder"
        raise ValueError(f"{archive.name} is not unpacked: {entry.name!r} is {kind}")
