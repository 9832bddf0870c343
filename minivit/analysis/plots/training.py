"""The curves of a training run."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter


def plot_curves(log: Sequence[dict[str, float]], baseline: float | None = None) -> Figure:
    """Plot the training loss, the held-out loss and the held-out error rate by epoch.

    `log` is the result of `training.read_log`, and `baseline` the accuracy (0 to 1) of logistic
    regression on the pixels.
    """
    epochs = [row["epoch"] for row in log]
    style = {"marker": "o", "ms": 4} if len(log) <= 10 else {}
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["loss"] for row in log], label="training objective", **style)
    left.plot(epochs, [row["held_out_loss"] for row in log], "--", label="held out", **style)
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    left.set_ylim(0, 1.05 * left.get_ylim()[1])
    errors = [100 * (1 - row["held_out_accuracy"]) for row in log]
    right.plot(epochs, errors, label="ViT, held out", **style)
    if baseline is not None:
        level = 100 * (1 - baseline)
        right.axhline(level, color="0.4", ls=":", label="logistic regression on pixels")
    right.set(xlabel="epoch", ylabel="error rate (%)")
    if max(errors) > 4 * min(errors):
        right.set_yscale("log")
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        right.yaxis.set_major_formatter("{x:g}")
        right.yaxis.set_minor_formatter(NullFormatter())
    else:
        right.set_ylim(0, 1.05 * right.get_ylim()[1])
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.legend()
    return figure
