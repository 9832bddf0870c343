"""What the contest of the training step tells: a table on the screen, and a file."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

FLOOR = "floor: the products alone"


class Row(NamedTuple):
    """A line of the table. The ratios are minivit's time over the contestant's."""

    model: str
    gelu: str
    contestant: str
    version: str
    median_ms: float
    ratio_median: float
    ratio_low: float
    ratio_high: float
    peak_mb: float
    share_of_floor: float
    threads: int
    rounds: int
    machine: str


def table(found: list[Row]) -> str:
    """The rows of one contest, minivit's first; and the best peer, beside which it is slowest."""
    title = ", GELU ".join(filter(None, [found[0].model, found[0].gelu]))
    lines = [f"{title:28}      median   minivit's time over it   peak memory   rate of the floor"]
    for r in found:
        ratios = f"{r.ratio_median:.2f} ({r.ratio_low:.2f} to {r.ratio_high:.2f})"
        peak = "" if math.isnan(r.peak_mb) else f"{r.peak_mb:.0f} MB"
        share = "" if math.isnan(r.share_of_floor) else f"{r.share_of_floor:.0%}"
        line = f"  {r.contestant:26} {r.median_ms:9.2f} ms {ratios:>24} {peak:>13} {share:>19}"
        lines.append(line.rstrip())
    ours, *others = found
    peers = [r for r in others if r.contestant != FLOOR]
    if peers:
        best = max(peers, key=lambda r: r.ratio_median)
        ratio = f"{best.ratio_median:.2f} of the time of its best peer, {best.contestant}"
        lines.append(f"  minivit takes {ratio}")
        least = min(peers, key=lambda r: r.peak_mb)
        share = f"{ours.peak_mb / least.peak_mb:.2f} of the memory of the most frugal"
        if not math.isnan(least.peak_mb):
            lines.append(f"  and {share}, {least.contestant}")
    return "\n".join(lines)


def write_csv(path: Path, found: list[Row]) -> None:
    """One line a contestant; what is not known is left empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        for r in found:
            numbers = (f"{x:.5g}" if isinstance(x, float) else x for x in r)
            writer.writerow("" if x == "nan" else x for x in numbers)
