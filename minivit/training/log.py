"""The logs of a training run: CSV files with one row per epoch and one per step."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import weights
from ..arrays import Array
from ..files import FileError, write_atomically
from ..terminal import print_message
from ..weights import CHECKPOINT
from .progress import rename_fields

LOG, STEP_LOG = "log.csv", "steps.csv"
Columns = Mapping[str, type]
# The loss and the accuracy (0 to 1) of the training images are means over the epoch, measured with
# augmentation, dropout and label smoothing. Those of the validation images may be NaN.
COLUMNS: Columns = {
    "epoch": int, "step": int, "learning_rate": float, "loss": float, "accuracy": float,
    "validation_loss": float, "validation_accuracy": float, "seconds": float,
}  # fmt: skip
OPTIONAL = ("accuracy", "validation_loss", "validation_accuracy")
STEP_COLUMNS: Columns = {
    "step": int, "epoch": int, "learning_rate": float, "loss": float, "accuracy": float,
    "seconds": float,
}  # fmt: skip
VERSION_0_1 = {"held_out_loss": "validation_loss", "held_out_accuracy": "validation_accuracy"}


def read_log(path: str | Path, columns: Columns = COLUMNS) -> list[dict[str, float]]:
    """Read the rows of a `log.csv`, one per epoch. Raises FileError if it is not a training log."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [rename_fields(row, VERSION_0_1) for row in csv.DictReader(file)]
        missing = dict.fromkeys(OPTIONAL, "nan")  # version 0.1.0 has no training accuracy
        return [
            {name: parse((missing | row)[name]) for name, parse in columns.items()} for row in rows
        ]
    except (csv.Error, KeyError, TypeError, ValueError):
        raise FileError(f"{path} is not a training log") from None


def write_log(path: Path, rows: list[dict[str, Any]], columns: Columns = COLUMNS) -> None:
    """Write a log atomically, so that a power failure does not lose its rows."""
    text = io.StringIO(newline="")
    log = csv.DictWriter(text, columns)
    log.writeheader()
    log.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def restore_steps(folder: Path, t: int) -> list[dict[str, Any]]:
    """Return the rows of the first t steps in the step log. A damaged log is discarded."""
    path = folder / STEP_LOG
    try:
        return [row for row in read_log(path, STEP_COLUMNS) if row["step"] <= t]
    except FileNotFoundError:
        return []
    except FileError as error:
        print_message(f"warning: {error}; its rows are lost")
        return []


def rows_to_table(rows: list[dict[str, Any]], seconds: bool = True) -> Array:
    """Return the rows as an array (E, 8) for a checkpoint. If not `seconds`, that column is NaN.

    A complete run is saved without it, so that the file does not depend on the training speed.
    """
    table = np.array([[row[name] for name in COLUMNS] for row in rows], dtype=np.float64)
    table = table.reshape(-1, len(COLUMNS))
    if not seconds:
        table[:, list(COLUMNS).index("seconds")] = np.nan
    return table


def restore_log(folder: Path, table: Array | None, epochs: int) -> list[dict[str, Any]]:
    """Return the rows of the first epochs from the log.csv in a folder.

    If epochs are missing, all rows are taken from the `table` (E, 8) of the checkpoint, and a
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
    required = [i for i, name in enumerate(COLUMNS) if name not in (*OPTIONAL, "seconds")]
    if not valid or not np.isfinite(table[:, required]).all():
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
