"""The time to load a ViT-B/16 (346 MB, in the disk cache), in each layout and file format.

    python tests/benchmarks/loading.py

Each time is measured in a new process, after `import minivit`. The table shows the median.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import minivit

LOAD = """import minivit, sys, timeit
print(timeit.timeit(lambda: minivit.ViT.load(sys.argv[1]), number=1))"""


def load_seconds(path: Path) -> float:
    command = [sys.executable, "-c", LOAD, str(path)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--model", default="ViT-B/16", metavar="NAME")
    args = parser.parse_args()
    model = minivit.ViT.create(args.model)
    with tempfile.TemporaryDirectory() as folder:
        for layout in minivit.weights.LAYOUTS:
            for ending in (".npz", ".safetensors"):
                path = Path(folder) / f"{layout}{ending}"
                model.save(path, layout)
                _, *times = [load_seconds(path) for _ in range(args.rounds + 1)]  # first: warm up
                text = f"{statistics.median(times):.3f} s, {min(times):.3f} to {max(times):.3f}"
                print(f"{layout + ending:24} {text}", flush=True)
                path.unlink()
