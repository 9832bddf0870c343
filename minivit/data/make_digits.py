"""Create digits.npz from the UCI file:  python minivit/data/make_digits.py optdigits.tes

`optdigits.tes` is in the archive at https://doi.org/10.24432/C50P49. Each line has 64 ink values,
0 to 16, and the digit. scikit-learn contains the same data as `digits.csv.gz`.
"""

import sys
from pathlib import Path

import numpy as np


def main(source: str) -> None:
    """Shuffle the lines once, because they are sorted by writer, and save them as bytes."""
    table = np.loadtxt(source, delimiter=",", dtype=np.uint8)
    if table.shape != (1797, 65):
        sys.exit(f"{source}: expected 1797 lines of 65 numbers, found {table.shape}")
    table = table[np.random.default_rng(0).permutation(len(table))]
    target = Path(__file__).with_name("digits.npz")
    np.savez_compressed(target, images=table[:, :64].reshape(-1, 8, 8), labels=table[:, 64])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
