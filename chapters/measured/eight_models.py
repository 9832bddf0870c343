"""Trains the eight models of chapter 14, each with five seeds: writes eight_models.csv.

    python chapters/measured/eight_models.py        (6 to 15 minutes)

The models are the chapter's own: its imports, functions and capitalised tables are run here, and
nothing else of it. The recipe is that of chapter 12 without the shifts. A row is the accuracy on
the held-out digits after an epoch. A seed decides the first parameters and the order of the images.
"""

import ast
import csv
import tempfile
from pathlib import Path
from unittest.mock import patch

import minivit
from minivit import ViT, ViTConfig
from minivit.parallel import single_threaded_blas
from minivit.training import Recipe, read_log, train

SEEDS = (0, 1, 2, 3, 4)
CHAPTER = Path(__file__).parents[1] / "14_eight_models.py"
CONFIG = ViTConfig(
    image_size=8, patch_size=2, channels=1, classes=10, width=32, depth=4, heads=4, mlp_width=64,
    position_std=1.0,
)  # fmt: skip
RECIPE = {"epochs": 20, "batch_size": 64, "learning_rate": 0.01, "warmup": 2, "shift": 0, "shards": 2}


def models():
    """The table MODELS of the chapter: which function of which file each of them replaces."""
    tree = ast.parse(CHAPTER.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if defines(node)]
    names = {}
    exec(compile(tree, str(CHAPTER), "exec"), names)
    return names["MODELS"]


def defines(node):
    """Whether a statement is an import, a function, or NAME = ... in capitals."""
    if isinstance(node, ast.Assign):
        return all(name.id.isupper() for name in ast.walk(node.targets[0]) if hasattr(name, "id"))
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef))


def accuracies(digits, seed):
    """The held-out accuracy of each epoch."""
    model = ViT.create(CONFIG, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        train(model, digits, Recipe(**RECIPE, seed=seed), folder)
        return [row["held_out_accuracy"] for row in read_log(Path(folder) / "log.csv")]


def main():
    digits, the_eight, rows = minivit.data.load_digits(), models(), []
    with single_threaded_blas():
        for seed in SEEDS:
            for name, replacement in the_eight.items():
                with patch.object(*replacement):
                    each = accuracies(digits, seed)
                print(name, seed, f"{each[-1]:.1%}", flush=True)
                rows += [[name, seed, epoch, f"{a:.4f}"] for epoch, a in enumerate(each, 1)]
    with open(Path(__file__).with_suffix(".csv"), "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["model", "seed", "epoch", "accuracy"])
        table.writerows(sorted(rows))


if __name__ == "__main__":
    main()
