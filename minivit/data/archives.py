"""Extract the expected files from an archive, and reject an archive with unsafe entries."""

import gzip
import tarfile
import zlib
from pathlib import Path, PurePosixPath

DAMAGED_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


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
