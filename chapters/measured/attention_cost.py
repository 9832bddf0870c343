"""Measure the cost of attention on an image of 224 x 224 pixels for several patch sizes.

    python chapters/measured/attention_cost.py

It writes attention_cost.csv next to itself in under a minute: for each patch side P, the number of
tokens N, the bytes of the N x N scores of one head in float32, and the median CPU time of the
forward pass of one head of width 64 on one core, in milliseconds.
"""

import csv
import time
from pathlib import Path

import numpy as np

from minivit.layers import attend
from minivit.parallel import single_threaded_blas

IMAGE_SIZE, Dh = 224, 64
FILE = Path(__file__).with_suffix(".csv")


def median_ms(N: int, rounds: int) -> float:
    """Return the median CPU time of one head's attention over N tokens, in milliseconds."""
    q, k, v = np.random.default_rng(0).normal(size=(3, N, Dh)).astype(np.float32)
    times = []
    for _ in range(rounds + 1):  # the first call is a warm-up
        start = time.process_time()
        attend(q, k, v)
        times.append(time.process_time() - start)
    return 1000 * float(np.median(times[1:]))


with open(FILE, "w", newline="") as file, single_threaded_blas():
    table = csv.writer(file)
    table.writerow(["patch_side", "tokens", "score_bytes", "milliseconds"])
    for P in (4, 7, 8, 14, 16, 28, 32, 56):
        N = (IMAGE_SIZE // P) ** 2
        ms = median_ms(N, rounds=21 if N > 1000 else 201)
        table.writerow([P, N, 4 * N * N, f"{ms:.4f}"])
        print(f"P = {P:2}: {N:5} tokens, {4 * N * N:11,} bytes, ~{ms:.3f} ms")
