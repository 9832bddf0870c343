"""The names of classes, from a file with one on each line."""

from pathlib import Path


def read_labels(path: str | Path, classes: int) -> list[str]:
    """One name for each of a model's classes, in their order.

    Raises FileNotFoundError, or ValueError if the file is no text, or of another number of lines.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file: a name on each line is wanted") from None
    names = [line.strip() for line in text.rstrip().split("\n")]
    if len(names) != classes:
        raise ValueError(f"{path} has {len(names)} lines, but the model knows {classes} classes")
    return names
