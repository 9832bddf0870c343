"""How long a ViT-B/16 takes to open: 346 MB from a warm disk, in each layout and kind of file.

    python tests/benchmarks/loading.py

Each time is of a process of its own, that has imported minivit; the median of several.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import minivit

LOAD = """
import sys, time
import minivit
started = time.perf_counter()
minivit.ViT.load(sys.argv[1])
print(time.perf_counter() - started)
"""


def seconds(path: Path) -> float:
    command = [sys.executable, "-c", LOAD, str(path)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", default="ViT-B/16")
    args = parser.parse_args()
    model = minivit.ViT.create(args.model)
    with tempfile.TemporaryDirectory() as folder:
        for layout in minivit.weights.LAYOUTS:
            for ending in (".npz", ".safetensors"):
                path = Path(folder) / f"{layout}{ending}"
                model.save(path, layout)
                times = [seconds(path) for _ in range(args.rounds + 1)][1:]  # the first one warms
                path.unlink()
                low, high = min(times), max(times)
                text = f"{statistics.median(times):.2f} s, from {low:.2f} to {high:.2f}"
                print(f"{layout + ending:24} {text}", flush=True)


if __name__ == "__main__":
    main()
