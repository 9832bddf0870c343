"""Format costs as text, and write them to a CSV file."""

import csv
import io
from pathlib import Path

from ..files import write_atomically
from .formulas import LayerCost, total_cost
from .memory import Memory

LEGEND = """\
FLOP: matrix products, 2 per multiply-add. Elements: scalars that other layers process. Retained:
arrays for the backward pass. A line that ends in "x n" is the sum over n identical layers."""
LINE = "{:36} {:>13} {:>12} {:>12} {:>8} {:>8}"


def format_quantity(number: float, unit: str = "") -> str:
    """Format a number with three digits and a prefix: 35_127_656_448 as "35.1 G", 0 as "-"."""
    if not number:
        return "-"
    prefixes = ["", *"kMGTPEZY"]
    while number >= 999.5 and len(prefixes) > 1:
        number /= 1000
        prefixes.pop(0)
    digits = (number < 9.995) + (number < 99.95) if prefixes[0] else 0
    return f"{number:.{digits}f} {prefixes[0]}{unit}".rstrip()


def format_table(costs: list[LayerCost]) -> str:
    """Return a table with one line per layer and the total in the last line."""
    lines = [LINE.format("layer", "parameters", "forward", "backward", "elements", "retained")]
    for cost in [*costs, total_cost(costs)]:
        layer = cost.layer if cost.times == 1 else f"{cost.layer} x {cost.times}"
        total = total_cost([cost])
        parameters = f"{total.parameters:,}" if total.parameters else "-"
        flop = (format_quantity(n, "FLOP") for n in (total.forward, total.backward))
        elements, retained = format_quantity(total.elements), format_quantity(total.retained, "B")
        lines.append(LINE.format(layer, parameters, *flop, elements, retained))
    return "\n".join(lines)


def format_memory(memory: Memory, dtype: str, optimiser: str) -> str:
    """Return the memory of training, one line per part."""
    m = memory
    split = f"{m.shards} shards of {m.shard_size} or fewer images, {m.parallel_shards} in parallel"
    sizes = {
        f"parameters ({dtype})": m.parameters,
        "gradients": m.gradients,
        f"optimiser state ({optimiser})": m.optimiser_state,
        "retained for the backward pass, batch not split": m.retained,
        "temporary arrays, batch not split": m.temporary,
        f"peak of a step, {'batch not split' if m.shards == 1 else split}": m.step,
        "peak of training: parameters, optimiser state, step": m.training,
    }
    width = max(map(len, sizes))
    return "\n".join(f"{name:{width}} {format_quantity(n, 'B'):>8}" for name, n in sizes.items())


def write_csv(path: Path, costs: list[LayerCost]) -> None:
    """Write one row per layer, in integers. A row is the sum over identical layers."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    names = "parameters", "forward_flop", "backward_flop", "elements", "retained_bytes"
    writer.writerow(["layer", "times", *names])
    for cost in costs:
        _, _, parameters, forward, *others = total_cost([cost])
        writer.writerow([*cost[:2], parameters, forward, 2 * forward, *others])
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))
