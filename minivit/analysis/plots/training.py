"""The curves of a training run."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from .figure import create_figure

LINE_LENGTH = 150  # characters of the note


def plot_curves(
    log: Sequence[dict[str, float]],
    title: str = "",
    note: str = "",
    baseline: float | None = None,
    test: float | None = None,
    bound: float = 0.0,
) -> Figure:
    """Plot the loss, the error rate and the learning rate by epoch.

    `log` is the result of `training.read_log`. The note is drawn below the curves. `baseline` and
    `test` are the accuracies (0 to 1) of logistic regression and of the model on the held-out
    images, and `bound` is the lowest possible training loss.
    """
    figure = create_figure(figsize=(12, 3.6), layout="constrained")
    losses, errors, rates = figure.subplots(1, 3)
    figure.suptitle(title, fontsize=11, parse_math=False)
    figure.supxlabel(textwrap.fill(note, LINE_LENGTH), fontsize=8, color="0.4")
    plot_lines(losses, log, {"training": "loss", "validation": "validation_loss"})
    if bound:
        label = "lower bound with label smoothing"
        losses.axhline(bound, color="C0", ls=":", label=label)
    losses.set(ylabel="cross-entropy (nats)")
    percent = [
        {name: 100 * (1 - x) if name.endswith("accuracy") else x for name, x in row.items()}
        for row in log
    ]
    plot_lines(errors, percent, {"training": "accuracy", "validation": "validation_accuracy"})
    if test is not None:
        held_out = 100 * (1 - test)
        label = f"held out, after training: {held_out:.2f}%"
        errors.plot(log[-1]["epoch"], held_out, "k*", ms=9, label=label)
    if baseline is not None:
        label = f"logistic regression, held out: {100 * (1 - baseline):.2f}%"
        errors.axhline(100 * (1 - baseline), color="0.4", ls=":", label=label)
    errors.set(ylabel="error rate (%)")
    plot_lines(rates, log, {"learning rate": "learning_rate"})
    rates.set(ylabel="learning rate")
    drawn = np.array([row[name] for row in percent for name in ("accuracy", "validation_accuracy")])
    shown = drawn[np.isfinite(drawn)]
    if len(shown) and shown.max() > 4 * shown.min() > 0:  # a logarithmic axis has no zero
        errors.set_yscale("log")
        errors.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        errors.yaxis.set_major_formatter("{x:g}")
        errors.yaxis.set_minor_formatter(NullFormatter())
    for axis in (losses, errors, rates):
        if axis.get_yscale() == "linear":
            axis.set_ylim(0, 1.05 * axis.get_ylim()[1])
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if axis is not rates:
            axis.legend(fontsize=8)
    return figure


def plot_lines(axis: Axes, log: Sequence[dict[str, float]], columns: dict[str, str]) -> None:
    """Plot columns of the log by epoch, except empty ones.  columns: {label: name}"""
    style = {"marker": "o", "ms": 4} if len(log) <= 10 else {}
    epochs = [row["epoch"] for row in log]
    for number, (label, name) in enumerate(columns.items()):
        values = [row[name] for row in log]
        if np.isfinite(values).any():
            axis.plot(epochs, values, f"C{number}", ls=["-", "--"][number], label=label, **style)
