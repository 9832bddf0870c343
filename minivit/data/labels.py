"""The names of classes, from a file with one on each line."""

from pathlib import Path

from .images import check_file


def read_labels(path: str | Path, classes: int) -> list[str]:
    """One name for each of a model's classes, in their order.

    Raises FileNotFoundError, or ValueError if the file is no text, or of another number of lines.
    """
    check_file(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file: a name on each line is wanted") from None
    text = text.rstrip()
    names = [line.strip() for line in text.split("\n")] if text else []
    if len(names) != classes:
        lines = "1 line" if len(names) == 1 else f"{len(names)} lines"
        raise ValueError(f"{path} has {lines}, but the model knows {classes} classes")
    return names
