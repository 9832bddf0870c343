"""The mean attention distance of each head (Figure 7 right and Figure 11)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...arrays import Array
from .figure import create_axes


def plot_distances(distances: Array, uniform: float, ax: Axes | None = None) -> Figure:
    """Plot the distance of each head by layer, and a line at the distance of uniform attention.

    distances (L, h) in pixels, from `mean_attention_distance`. They are drawn into `ax` if that is
    given.
    """
    L, heads = distances.shape
    figure, axis = create_axes(ax, figsize=(6, 4))
    axis.axhline(uniform, color="0.4", ls="--", label="uniform attention")
    layers = [layer for layer in range(1, L + 1) for _ in range(heads)]
    axis.plot(layers, distances.ravel(), "o", c="C0", mec="white", ms=8, label="head")
    axis.set(xlabel="layer", ylabel="mean attention distance (pixels)")
    axis.set(xlim=(0.5, L + 0.5), ylim=(0, 1.08 * max(uniform, float(distances.max()))))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.legend(loc="lower right")
    return figure
