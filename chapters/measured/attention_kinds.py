"""Measure the time of global, axial and windowed attention, forward and backward.

    python chapters/measured/attention_kinds.py

It writes attention_kinds.csv next to itself in about a minute: for a square grid of G x G patches,
the GFLOP of each kind of attention and its median CPU time on one core in milliseconds, for one
image and three heads of width 64 in float32. The measurements of the three kinds alternate.
"""

import csv
import time
from pathlib import Path

import numpy as np

from minivit.layers import attend
from minivit.parallel import configure_malloc, single_threaded_blas

SIDES, ROUNDS, WINDOW = (8, 16, 24, 32, 40, 48, 56, 64), 15, 8
KINDS = ("global", "axial", "windowed")
HEADS, Dh = 3, 64


def flops(kind, G):
    """Return the FLOP of the two forward and four backward products: 12 Dh per query-key pair."""
    keys = {"global": G * G, "axial": 2 * G, "windowed": WINDOW**2}[kind]
    return 12 * Dh * HEADS * G * G * keys


def run_attention(q, dy):
    """Run attention over the second-last axis, forward and backward, with q as key and value."""
    _, pullback = attend(q, q, q)
    return pullback(dy)


def run(kind, q, dy):
    """Run one kind of attention.  q (h, G, G, Dh), dy (h, G, G, Dh)"""
    G, w = q.shape[1], WINDOW
    if kind == "global":
        run_attention(q.reshape(HEADS, G * G, Dh), dy.reshape(HEADS, G * G, Dh))
    elif kind == "axial":
        run_attention(q, dy)
        columns = (np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, dy))
        run_attention(*columns)
    else:
        grids = (x.reshape(HEADS, G // w, w, G // w, w, Dh).swapaxes(2, 3) for x in (q, dy))
        windows = (grid.reshape(HEADS, -1, w * w, Dh) for grid in grids)
        run_attention(*windows)


def main():
    """Measure every kind for every grid size, and write the CSV file."""
    configure_malloc()  # like the training loop
    rng = np.random.default_rng(0)
    with open(Path(__file__).with_suffix(".csv"), "w", newline="") as file, single_threaded_blas():
        table = csv.writer(file)
        table.writerow(["side", *(f"{kind}_{unit}" for kind in KINDS for unit in ("gflop", "ms"))])
        for G in SIDES:
            q, dy = rng.normal(size=(2, HEADS, G, G, Dh)).astype("float32") / Dh**0.25
            times = {kind: [] for kind in KINDS}
            for _ in range(ROUNDS):
                for kind in KINDS:
                    start = time.process_time()
                    run(kind, q, dy)
                    times[kind].append(1000 * (time.process_time() - start))
            row = [[flops(kind, G) / 1e9, np.median(times[kind])] for kind in KINDS]
            table.writerow([G, *(f"{value:.4g}" for pair in row for value in pair)])


if __name__ == "__main__":
    main()
