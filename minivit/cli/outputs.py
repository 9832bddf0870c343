"""The files of a training run besides its checkpoint, and the report at its end."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .. import analysis, data, training
from ..api import ViT
from ..files import write_atomically
from ..terminal import print_message
from ..training.log import LOG, STEP_LOG, repair_log
from ..weights import CHECKPOINT, CLASS_NAMES

FIGURES = ("curves.png", "attention.png")
OUTPUTS = (CHECKPOINT, CLASS_NAMES, LOG, STEP_LOG, *FIGURES)
DATA_ADVICE = "Pass the data set of this run with --data"


def write_class_names(dataset: data.Dataset, folder: Path) -> None:
    """Write the names of the classes for `predict`, unless they are just numbers."""
    path = folder / CLASS_NAMES
    if dataset.classes == tuple(map(str, range(len(dataset.classes)))):
        path.unlink(missing_ok=True)
        return
    text = "".join(f"{name}\n" for name in dataset.classes)
    write_atomically(path, lambda file: file.write(text.encode()))


def missing_files(folder: Path) -> list[str]:
    """Return the names of the files of a complete run that are missing, damaged or outdated."""
    names = []
    for name in FIGURES:
        path = folder / name
        try:
            data.read_image(path, (1, 1), 3)
            if path.stat().st_mtime < (folder / CHECKPOINT).stat().st_mtime:
                names.append(name)  # of an earlier run
        except (OSError, ValueError):
            names.append(name)
    try:
        return names if training.read_log(folder / LOG) else [LOG, *names]
    except (FileNotFoundError, ValueError):
        return [LOG, *names]


def report(
    model: ViT, dataset: data.Dataset, resized: data.Dataset, folder: Path,
    check: Callable[[], None], verify: bool,
) -> None:  # fmt: skip
    """Save the figures of a complete run, and print its accuracy and that of a baseline.

    check: called between the parts; raises Interrupted if there was a signal
    verify: raise ValueError if the accuracy differs from the log, as it does on another data set
    """
    log = repair_log(folder)
    if not log:
        raise ValueError(f"{folder / LOG} has no rows, although the run is complete")
    progress = training.read_progress(folder)
    if progress is None:  # version 0.1.0 evaluated the held-out images after every epoch
        accuracy, train = log[-1]["validation_accuracy"], dataset
    else:
        accuracy, train = progress.test_accuracy or 0.0, dataset
        if progress.recipe.validation:
            train, *_ = data.split_validation(dataset, progress.recipe.validation)
    seconds = log[-1]["seconds"]
    held_out = resized.held_out_images, resized.held_out_labels
    if verify and abs(training.evaluate(model, *held_out).accuracy - accuracy) > 0.01:
        text = f"the accuracy on the {dataset.name} differs from that in {folder / CHECKPOINT}"
        raise ValueError(f"{text}. {DATA_ADVICE}")
    check()
    baseline = training.fit_logistic_regression(train)
    check()
    analysis.save_figure(training.plot_training(folder, baseline), folder / FIGURES[0])
    check()
    analysis.save_figure(analysis.plot_held_out(model, resized), folder / FIGURES[1])
    duration = f" after {seconds:.0f} s of training" if math.isfinite(seconds) else ""
    print(f"{accuracy:.2%} held-out accuracy{duration}")
    chance = np.bincount(resized.held_out_labels).max() / len(resized.held_out_labels)
    if accuracy <= chance:
        print_message(
            f"warning: the model is no better than chance: always predicting the most frequent "
            f"class gives an accuracy of {chance:.2%}. Check the labels, train longer, or try "
            "another --lr"
        )
    if baseline is not None:
        print(f"{baseline:.2%} for logistic regression on the raw pixels")
    if unreadable := data.describe_unreadable(dataset):
        print(unreadable)
    print(f"saved in {folder}: {', '.join(n for n in OUTPUTS if (folder / n).exists())}")
