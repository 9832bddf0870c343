"""Read and write the files of a folder."""


def read_tree(folder):
    """Return the contents of a folder as {path: bytes}, with None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def write_tree(folder, files):
    """Write files {path: bytes} to a folder, and return it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
