"""Ablations of the recipe of chapter 12: train without each component, with three seeds.

    python chapters/measured/training_parts.py

It writes training_parts.csv next to itself in 4 to 8 minutes: the accuracy on the validation digits
after each epoch. (The committed file contains the accuracy on the held-out digits: it was measured
before there were validation images, with all training images.) The row of the last epoch also
contains the accuracy on the held-out digits translated horizontally by one pixel and by two,
averaged over both directions. (A digit fills the height of its image, so only horizontal
translations preserve most of the ink.) The seed determines the initial parameters and the order of
the images.

"momentum SGD" replaces AdamW, without weight decay; 0.1 is the best of the learning rates 0.03, 0.1
and 0.3 for seed 0. "plain descent" is `train_sgd` with the same number of epochs and batch size.
"""

import csv
import dataclasses
import tempfile
from pathlib import Path

import numpy as np

import minivit
from minivit import ViT, ViTConfig
from minivit.models import vit
from minivit.parallel import single_threaded_blas
from minivit.training import Recipe, read_log, train, train_sgd

SEEDS = (0, 1, 2)
CONFIG = ViTConfig(
    image_size=8, patch_size=2, channels=1, classes=10, width=32, depth=4, heads=4, mlp_width=64,
    position_std=1.0,
)  # fmt: skip
RECIPE = Recipe(epochs=20, batch_size=64, learning_rate=0.01, warmup=2, shards=2)
VARIANTS = {
    "full recipe": {},
    "no warm-up": {"warmup": 0},
    "no cosine": {"schedule": "constant"},
    "no clipping": {"grad_clip": 0},
    "no weight decay": {"weight_decay": 0},
    "no smoothing": {"label_smoothing": 0},
    "no shifts": {"shift": 0},
    "learning rate 0.002": {"learning_rate": 0.002},
    "momentum SGD": {"optimiser": "sgd", "learning_rate": 0.1, "weight_decay": 0},
    "plain descent": None,
}


def train_variant(changes, digits, seed):
    """Train a ViT. Return the validation accuracy after each epoch, and the model."""
    model = ViT.create(CONFIG, seed=seed)
    if changes is None:
        accuracies = train_sgd(
            lambda images, params: vit(images, params, CONFIG), model.params, digits,
            epochs=20, batch_size=64, learning_rate=0.1, seed=seed,
        )  # fmt: skip
        return accuracies, model
    with tempfile.TemporaryDirectory() as folder:
        train(model, digits, dataclasses.replace(RECIPE, **changes, seed=seed), folder)
        log = read_log(Path(folder) / "log.csv")
    return [row["validation_accuracy"] for row in log], model


def translate(images, pixels):
    """Translate images (B, 8, 8, C) to the right, or to the left if `pixels` is negative."""
    translated = np.roll(images, pixels, axis=2)
    translated[:, :, : max(pixels, 0)] = -1  # background
    translated[:, :, 8 + min(pixels, 0) :] = -1
    return translated


def translated_accuracy(model, digits, pixels):
    """Return the held-out accuracy after a translation, averaged over both directions."""
    logits = [model(translate(digits.held_out_images, shift)) for shift in (-pixels, pixels)]
    return float(np.mean([x.argmax(-1) == digits.held_out_labels for x in logits]))


def main():
    """Train every variant with every seed, and write the CSV file."""
    digits = minivit.data.load_digits()
    with open(Path(__file__).with_suffix(".csv"), "w", newline="") as file, single_threaded_blas():
        table = csv.writer(file, lineterminator="\n")
        table.writerow(
            ["variant", "seed", "epoch", "accuracy", "translated_by_1", "translated_by_2"]
        )
        for name, changes in VARIANTS.items():
            for seed in SEEDS:
                accuracies, model = train_variant(changes, digits, seed)
                translated = [translated_accuracy(model, digits, pixels) for pixels in (1, 2)]
                print(name, seed, accuracies[-1], translated, flush=True)
                for epoch, accuracy in enumerate(accuracies[:-1], start=1):
                    table.writerow([name, seed, epoch, f"{accuracy:.4f}", "", ""])
                last = [f"{a:.4f}" for a in (accuracies[-1], *translated)]
                table.writerow([name, seed, len(accuracies), *last])


if __name__ == "__main__":
    main()
