"""The ledger for people, in aligned columns, and as a CSV file."""

import csv
from collections.abc import Sequence
from pathlib import Path

from .formulas import Row, totals
from .measure import Measured
from .memory import Memory

LEGEND = """\
FLOP: of products of matrices, 2 for each multiply-add. Entries: how many numbers other work goes
over. Kept: what the pullbacks hold until the way back. A line with "x n" is all n of them."""
PREDICTED = "{:32} {:>13} {:>12} {:>12} {:>8} {:>8}"
MEASURED = "{:32} {:>12} {:>9} {:>12} {:>9} {:>9} {:>9}"
NO_TIME = 1e-9  # seconds: a clock may tell none
COLUMNS = ["layer", "times", "parameters", "forward_flop", "backward_flop", "entries", "kept_bytes"]
TIMES = ["forward_seconds", "backward_seconds", "measured_kept_bytes"]


def figure(number: float, unit: str = "") -> str:
    """A number for people: 35127656448 FLOP are "35.1 GFLOP", none are "-"."""
    if not number:
        return "-"
    prefixes = ["", *"kMGTPEZY"]
    while number >= 999.5 and len(prefixes) > 1:
        number /= 1000
        prefixes.pop(0)
    digits = (number < 9.995) + (number < 99.95) if prefixes[0] else 0  # three that count
    return f"{number:.{digits}f} {prefixes[0]}{unit}".rstrip()


def label(row: Row) -> str:
    """A layer's name, and how many of them there are."""
    return row.layer if row.times == 1 else f"{row.layer} x {row.times}"


def predicted(ledger: list[Row]) -> str:
    """The table of the formulas, totals at the foot."""
    lines = [PREDICTED.format("layer", "parameters", "forward", "backward", "entries", "kept")]
    for row in [*ledger, totals(ledger)]:
        all_of_it = row.together
        lines.append(
            PREDICTED.format(
                label(row),
                f"{all_of_it.parameters:,}" if row.parameters else "-",
                figure(all_of_it.forward, "FLOP"),
                figure(all_of_it.backward, "FLOP"),
                figure(all_of_it.entries),
                figure(all_of_it.kept, "B"),
            )
        )
    return "\n".join(lines)


def measured_head() -> str:
    """The first line above those of `measured`."""
    columns = "forward", "rate", "backward", "rate", "kept", "predicted"
    return MEASURED.format("layer", *columns)


def measured(row: Row, times: Measured) -> str:
    """A line of the measured ledger; rates are FLOP or entries a second."""
    n, work = row.times, row.forward or row.entries
    return MEASURED.format(
        label(row),
        f"{n * times.forward * 1e3:,.1f} ms",
        figure(work / max(times.forward, NO_TIME), "/s"),
        f"{n * times.backward * 1e3:,.1f} ms",
        figure(row.backward / max(times.backward, NO_TIME), "/s"),
        figure(n * times.kept, "B"),
        figure(n * row.kept, "B"),
    )


def summary(m: Memory, dtype: str, optimiser: str) -> str:
    """Where the memory of a training goes."""
    step = f"a step, in {m.shards} shards of up to {m.images}, {m.in_flight} at a time"
    if m.shards == 1:
        step = "a step, in one piece"
    sizes = {
        f"parameters, {dtype}": m.parameters,
        "gradients": m.gradients,
        f"state of the optimiser, {optimiser}": m.state,
        "kept by the pullbacks, the batch in one piece": m.kept,
        step: m.step,
        "parameters, state and a step: training's peak": m.training,
    }
    width = max(map(len, sizes))
    return "\n".join(f"{name:{width}} {figure(size, 'B'):>8}" for name, size in sizes.items())


def write_csv(path: Path, ledger: list[Row], times: Sequence[Measured] = ()) -> None:
    """The ledger as a file, whole numbers, equal layers together; the times as well if given."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow([*COLUMNS, *(TIMES if times else [])])
        for i, row in enumerate(ledger):
            all_of_it = row.together
            line = [row.layer, row.times, all_of_it.parameters, all_of_it.forward]
            line += [all_of_it.backward, all_of_it.entries, all_of_it.kept]
            if times:
                line += [row.times * number for number in times[i][1:]]
            out.writerow(line)
