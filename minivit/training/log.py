"""The log of a training run: a CSV file with one row per epoch."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from .. import weights
from ..arrays import Array
from ..files import FileError, write_atomically
from ..terminal import print_message
from ..weights import CHECKPOINT
from .progress import rename_fields

LOG = "log.csv"
COLUMNS = {
    "epoch": int, "step": int, "learning_rate": float, "loss": float, "held_out_loss": float,
    "held_out_accuracy": float, "seconds": float,
}  # fmt: skip


def read_log(path: str | Path) -> list[dict[str, float]]:
    """Read the rows of a `log.csv`, one per epoch. Raises FileError if it is not a training log."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [rename_fields(row) for row in csv.DictReader(file)]
        return [{name: parse(row[name]) for name, parse in COLUMNS.items()} for row in rows]
    except (csv.Error, KeyError, TypeError, ValueError):
        raise FileError(f"{path} is not a training log") from None


def write_log(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a `log.csv` atomically, so that a power failure does not lose its rows."""
    text = io.StringIO(newline="")
    log = csv.DictWriter(text, COLUMNS)
    log.writeheader()
    log.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def rows_to_table(rows: list[dict[str, Any]], seconds: bool = True) -> Array:
    """Return the rows as an array (E, 7) for a checkpoint. If not `seconds`, that column is NaN.

    A complete run is saved without it, so that the file does not depend on the training speed.
    """
    table = np.array([[row[name] for name in COLUMNS] for row in rows], dtype=np.float64)
    table = table.reshape(-1, len(COLUMNS))
    if not seconds:
        table[:, list(COLUMNS).index("seconds")] = np.nan
    return table


def restore_log(folder: Path, table: Array | None, epochs: int) -> list[dict[str, Any]]:
    """Return the rows of the first epochs from the log.csv in a folder.

    If epochs are missing, all rows are taken from the `table` (E, 7) of the checkpoint, and a
    warning is printed. Checkpoints of version 0.1.0 have no table. Raises FileError if there are no
    rows in the checkpoint either.
    """
    path = folder / LOG
    try:
        rows = [row for row in read_log(path) if row["epoch"] <= epochs]
        reason = "lacks epochs"
    except (FileNotFoundError, FileError) as error:
        if table is None and epochs:
            raise
        rows, reason = [], "is damaged" if isinstance(error, FileError) else "is missing"
    if table is None or [row["epoch"] for row in rows] == list(range(1, epochs + 1)):
        return rows
    valid = table.shape == (epochs, len(COLUMNS)) and table.dtype.kind == "f"
    if not valid or not np.isfinite(table[:, :-1]).all():
        raise FileError(f"{folder / CHECKPOINT}: 'training/log' is not a log of {epochs} epochs")
    print_message(f"warning: {path} {reason}; it is rewritten from {CHECKPOINT}")
    types = COLUMNS.items()
    return [{name: t(x) for (name, t), x in zip(types, row, strict=True)} for row in table]


def repair_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a complete run. If its log.csv is not usable, rewrite it."""
    table = weights.load_training(folder / CHECKPOINT).get("log")
    if table is None:  # version 0.1.0
        return read_log(folder / LOG)
    rows = restore_log(folder, table, len(table))
    write_log(folder / LOG, rows)
    return rows
