"""Class names, from a text file with one name per line."""

from pathlib import Path

from .images import check_file


def read_labels(path: str | Path, classes: int) -> list[str]:
    """Read the names of a model's classes, in order.

    Raises FileNotFoundError, or ValueError unless the file is text with one line per class.
    """
    check_file(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig").rstrip()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file with one class name per line") from None
    names = [line.strip() for line in text.split("\n")] if text else []
    if len(names) != classes:
        lines = "1 line" if len(names) == 1 else f"{len(names)} lines"
        raise ValueError(f"{path} has {lines}, but the model has {classes} classes")
    return names
