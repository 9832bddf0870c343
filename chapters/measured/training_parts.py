"""The recipe of chapter 12 with each of its parts taken away: writes training_parts.csv.

    python chapters/measured/training_parts.py        (4 to 8 minutes)

Each variant is trained three times, with seeds 0, 1, 2 for the first parameters and the order of
the images. "momentum SGD" has SGD in AdamW's place, without weight decay, at the best of the rates
0.03, 0.1 and 0.3 (with seed 0). "plain descent" is `train_sgd`: nothing of the recipe is left but
its epochs and the size of its batches.

A row is an epoch, with the accuracy on the held-out digits. After the last epoch, and empty before
it: the accuracy on the same digits moved sideways by one pixel and by two, the mean of left and
right. (A digit fills the height of its image, so only a move sideways keeps most of the ink.)
"""

import csv
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
FULL = {"epochs": 20, "batch_size": 64, "learning_rate": 0.01, "warmup": 2, "shards": 2}
VARIANTS = {
    "full recipe": FULL,
    "no warm-up": {**FULL, "warmup": 0},
    "no cosine": {**FULL, "decay": "constant"},
    "no clipping": {**FULL, "clip": 0},
    "no weight decay": {**FULL, "weight_decay": 0},
    "no smoothing": {**FULL, "label_smoothing": 0},
    "no shifts": {**FULL, "shift": 0},
    "rate 0.002": {**FULL, "learning_rate": 0.002},
    "momentum SGD": {**FULL, "optimiser": "sgd", "learning_rate": 0.1, "weight_decay": 0},
    "plain descent": None,
}


def trained(settings, digits, seed):
    """The accuracy of each epoch, and the model."""
    model = ViT.create(CONFIG, seed=seed)
    if settings is None:

        def f(images, params):
            return vit(images, params, CONFIG)

        return train_sgd(
            f, model.params, digits, epochs=20, batch_size=64, learning_rate=0.1, seed=seed
        ), model
    with tempfile.TemporaryDirectory() as folder:
        train(model, digits, Recipe(**settings, seed=seed), folder)
        log = read_log(Path(folder) / "log.csv")
    return [row["held_out_accuracy"] for row in log], model


def sideways(images, pixels):
    """The images moved to the right (or left: pixels below 0), paper coming in at the border."""
    moved = np.roll(images, pixels, axis=2)
    moved[:, :, : max(pixels, 0)] = -1
    moved[:, :, 8 + min(pixels, 0) :] = -1
    return moved


def main():
    digits = minivit.data.load_digits()
    with open(Path(__file__).with_suffix(".csv"), "w", newline="") as file, single_threaded_blas():
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["variant", "seed", "epoch", "accuracy", "moved_by_1", "moved_by_2"])
        for name, settings in VARIANTS.items():
            for seed in SEEDS:
                accuracies, model = trained(settings, digits, seed)
                moved = [
                    np.mean([
                        model(sideways(digits.held_out_images, pixels)).argmax(-1)
                        == digits.held_out_labels
                        for pixels in (-n, n)
                    ])
                    for n in (1, 2)
                ]  # fmt: skip
                print(name, seed, accuracies[-1], moved, flush=True)
                for epoch, accuracy in enumerate(accuracies[:-1], start=1):
                    table.writerow([name, seed, epoch, f"{accuracy:.4f}", "", ""])
                last = [f"{a:.4f}" for a in (accuracies[-1], *moved)]
                table.writerow([name, seed, len(accuracies), *last])


if __name__ == "__main__":
    main()
