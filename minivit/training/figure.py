"""The figure of a training run."""

from pathlib import Path
from typing import Any

from .. import analysis
from .log import LOG, read_log


def plot_training(folder: str | Path, baseline: float | None = None) -> Any:
    """Plot the curves of the training run in a folder, such as "runs/digits".

    Returns a matplotlib Figure, which notebooks display. `baseline` is the accuracy (0 to 1) of
    another model, drawn as a line. Raises FileNotFoundError if the folder has no log, FileError if
    the log is damaged.
    """
    return analysis.plot_curves(read_log(Path(folder) / LOG), baseline)
