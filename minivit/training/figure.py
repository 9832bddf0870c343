"""The figure of a training run."""

import math
from pathlib import Path
from typing import Any

from .. import analysis, weights
from ..weights import CHECKPOINT
from .log import LOG, read_log
from .progress import read_progress
from .recipe import Recipe


def plot_training(folder: str | Path, baseline: float | None = None) -> Any:
    """Plot the curves of a training run.

    Parameters
    ----------
    folder : str or Path
        The output folder of `minivit train`, such as "runs/digits".
    baseline : float, optional
        Accuracy (0 to 1) of another model on the held-out images, drawn as a line.

    Returns
    -------
    matplotlib.figure.Figure
        The loss, the error rate and the learning rate by epoch. Notebooks display it.

    Raises
    ------
    FileNotFoundError
        If the folder has no log.
    FileError
        A ValueError. The log or the checkpoint is damaged.
    """
    folder = Path(folder)
    log, progress = read_log(folder / LOG), read_progress(folder)
    if progress is None:
        return analysis.plot_curves(log, baseline=baseline)
    config = weights.read_config(folder / CHECKPOINT)
    seed, K = progress.recipe.seed, config.classes or 1
    return analysis.plot_curves(
        log, f"{config.name} on the {progress.data}, seed {seed}", explain_loss(progress.recipe),
        baseline, progress.test_accuracy, smoothing_bound(progress.recipe.label_smoothing, K),
    )  # fmt: skip


def explain_loss(recipe: Recipe) -> str:
    """Return why the training loss lies above the validation loss, or "" if it need not."""
    names = "shift", "flip", "randaugment", "random_erasing", "mixup", "cutmix"
    parts = ["label smoothing"] if recipe.label_smoothing else []
    parts += ["augmentation"] if any(getattr(recipe, name) for name in names) else []
    if not parts or not recipe.validation:
        return ""
    return (
        f"The training curves are means over the epoch, measured with {' and '.join(parts)}. The "
        "validation curves are measured after the epoch, without. Therefore the training loss can "
        "lie above the validation loss."
    )


def smoothing_bound(s: float, K: int) -> float:
    """Return the lowest possible training loss with label smoothing s, in nats.

    It is the entropy of the targets, of which one is 1 - s + s / K and K - 1 are s / K.
    """
    targets = [1 - s + s / K, *[s / K] * (K - 1)]
    return -sum(p * math.log(p) for p in targets if p)
