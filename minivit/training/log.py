"""The log of a training run: a CSV file with one row per epoch."""

import csv
import io
from pathlib import Path
from typing import Any

from ..weights.files import write_atomically
from .progress import rename_fields

LOG = "log.csv"
COLUMNS = {
    "epoch": int, "step": int, "learning_rate": float, "loss": float, "held_out_loss": float,
    "held_out_accuracy": float, "seconds": float,
}  # fmt: skip


def read_log(path: str | Path) -> list[dict[str, float]]:
    """Read the rows of a `log.csv`, one per epoch. Raises ValueError for another kind of file."""
    with open(path, newline="") as file:
        rows = [rename_fields(row) for row in csv.DictReader(file)]
    try:
        return [{name: parse(row[name]) for name, parse in COLUMNS.items()} for row in rows]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is not a training log") from None


def write_log(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a `log.csv` atomically, so that a power failure does not lose its rows."""
    text = io.StringIO(newline="")
    log = csv.DictWriter(text, COLUMNS)
    log.writeheader()
    log.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))
