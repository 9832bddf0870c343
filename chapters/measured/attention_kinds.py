"""Times of global, axial and windowed attention, there and back:

    python chapters/measured/attention_kinds.py

One image, three heads of 64 dimensions, float32, on a square grid of patches; CPU time of one core.
The kinds take turns and the median of the rounds counts. Writes attention_kinds.csv beside this
file: the patches along a side, then for each kind its multiplications and additions in units of
1e9, and its milliseconds.
"""

import csv
import time
from pathlib import Path

import numpy as np

from minivit.layers import attend
from minivit.parallel import configure_malloc, single_threaded_blas

SIDES, ROUNDS, WINDOW = (8, 16, 24, 32, 40, 48, 56, 64), 15, 8
KINDS = ("global", "axial", "windowed")
k, Dh = 3, 64


def flops(kind, G):
    """Both products, there, and the four on the way back: three times 4 Dh for each pair."""
    seen = {"global": G * G, "axial": 2 * G, "windowed": WINDOW**2}[kind]
    return 12 * Dh * k * G * G * seen


def there_and_back(q, dy):
    """Attention among the tokens of the last axis but one; queries serve as keys and values."""
    _, pullback = attend(q, q, q)
    return pullback(dy)


def run(kind, q, dy):
    """q and dy (k, G, G, Dh)"""
    G = q.shape[1]
    if kind == "global":
        there_and_back(q.reshape(k, G * G, Dh), dy.reshape(k, G * G, Dh))
    elif kind == "axial":
        there_and_back(q, dy)
        columns = (np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, dy))
        there_and_back(*columns)
    else:
        w = WINDOW
        windows = (
            x.reshape(k, G // w, w, G // w, w, Dh).swapaxes(2, 3).reshape(k, -1, w * w, Dh)
            for x in (q, dy)
        )
        there_and_back(*windows)


def main():
    configure_malloc()  # as training does
    rng = np.random.default_rng(0)
    with open(Path(__file__).with_suffix(".csv"), "w", newline="") as file, single_threaded_blas():
        table = csv.writer(file)
        table.writerow(["side", *(f"{kind}_{unit}" for kind in KINDS for unit in ("gflop", "ms"))])
        for G in SIDES:
            q, dy = rng.normal(size=(2, k, G, G, Dh)).astype("float32") / Dh**0.25
            times = {kind: [] for kind in KINDS}
            for _ in range(ROUNDS):
                for kind in KINDS:
                    start = time.process_time()
                    run(kind, q, dy)
                    times[kind].append(1000 * (time.process_time() - start))
            row = [[flops(kind, G) / 1e9, np.median(times[kind])] for kind in KINDS]
            table.writerow([G, *(f"{number:.4g}" for pair in row for number in pair)])


if __name__ == "__main__":
    main()
