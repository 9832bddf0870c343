"""Train the eight models of chapter 14 with five seeds each.

    python chapters/measured/eight_models.py

It writes eight_models.csv next to itself in 6 to 15 minutes: the accuracy on the validation digits
after each epoch. (The committed file contains the accuracy on the held-out digits: it was measured
before there were validation images, with all training images.) The seed determines the initial
parameters and the order of the images. The recipe is that of chapter 12 without the shifts. The
models are read from chapter 14: only its imports, functions and constants are executed.
"""

import ast
import csv
import dataclasses
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
RECIPE = Recipe(epochs=20, batch_size=64, learning_rate=0.01, warmup=2, shift=0, shards=2)


def load_models():
    """Return MODELS of the chapter: per model, a module, a function name and the replacement."""
    tree = ast.parse(CHAPTER.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if is_definition(node)]
    namespace = {}
    exec(compile(tree, str(CHAPTER), "exec"), namespace)
    return namespace["MODELS"]


def is_definition(node):
    """Return whether a statement is an import, a function or an assignment to a constant."""
    if isinstance(node, ast.Assign):
        return all(name.id.isupper() for name in ast.walk(node.targets[0]) if hasattr(name, "id"))
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef))


def train_model(digits, seed):
    """Train a ViT and return the validation accuracy after each epoch."""
    model = ViT.create(CONFIG, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        train(model, digits, dataclasses.replace(RECIPE, seed=seed), folder)
        return [row["validation_accuracy"] for row in read_log(Path(folder) / "log.csv")]


def main():
    """Train every model with every seed, and write the CSV file."""
    digits, models, rows = minivit.data.load_digits(), load_models(), []
    with single_threaded_blas():
        for seed in SEEDS:
            for name, replacement in models.items():
                with patch.object(*replacement):
                    accuracies = train_model(digits, seed)
                print(name, seed, f"{accuracies[-1]:.1%}", flush=True)
                rows += [[name, seed, epoch, f"{a:.4f}"] for epoch, a in enumerate(accuracies, 1)]
    with open(Path(__file__).with_suffix(".csv"), "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["model", "seed", "epoch", "accuracy"])
        table.writerows(sorted(rows))


if __name__ == "__main__":
    main()
