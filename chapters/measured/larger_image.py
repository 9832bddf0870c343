"""Evaluate and fine-tune the bundled model on larger images.

    python chapters/measured/larger_image.py

It writes larger_image.csv next to itself in 10 to 20 minutes: the accuracy on 2,000 held-out images
for several methods to compute the position embeddings of a larger image. The bundled model was
trained on scattered digits: images of 24 x 24 pixels with patches of 4 x 4 pixels. The columns are:

images      "enlarged": held-out images resized to `size` by bilinear interpolation; "wider": images
            generated at that size, with the digit and six fragments of the original size
positions   position embeddings of the patches: the model's table interpolated ("aligned",
            "bilinear", "bicubic") or repeated from the top left ("tiled"), its "mean" at every
            patch, the aligned table in random order ("shuffled"), or random values from the initial
            distribution ("fresh"). The position embedding of the class token is unchanged.
trained     fine-tuned parameters: all ("body"), only the head ("head"), or none (empty, epoch 0).
            Fine-tuning starts with a head of zeros.
epoch       number of epochs; one epoch has 50 steps with batches of 64 of the 3,200 enlarged images
seed        determines all random numbers
"""

import csv
import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from minivit import ViT, data
from minivit.data import resize_dataset
from minivit.training import FINE_TUNING, evaluate, read_log, replace_head, train
from minivit.weights import resize_positions

SEEDS = (0, 1, 2)
RESIZED = ("aligned", "bilinear", "bicubic")
OTHERS = ("tiled", "mean", "shuffled", "fresh")
RANDOM = ("shuffled", "fresh")  # repeated with every seed
CONDITIONS = [
    ("enlarged", 24, (*RESIZED, *OTHERS)),
    ("enlarged", 28, (*RESIZED, *OTHERS)),
    ("enlarged", 32, ("aligned",)),
    ("enlarged", 36, (*RESIZED, *OTHERS)),
    ("enlarged", 48, ("aligned",)),
    ("wider", 28, ("aligned",)),
    ("wider", 36, (*RESIZED, *OTHERS)),
]
FINE_TUNED = [("aligned", "body"), ("bicubic", "body"), ("fresh", "body"), ("aligned", "head")]
RECIPE = dataclasses.replace(
    FINE_TUNING, epochs=4, batch_size=64, learning_rate=0.03, warmup=0.2, shards=2
)


def load_model(size, positions, seed):
    """Return the bundled model for images of this size, with the named position embeddings."""
    model = ViT.load(data.SCATTERED_MODEL, image_size=size)
    old = ViT.load(data.SCATTERED_MODEL).params["positions"]["table"]
    table, g = model.params["positions"]["table"], size // 4  # (T, D), already "aligned"
    if positions in RESIZED:
        table = resize_positions(old, (6, 6), (g, g), positions)
    elif positions == "tiled":
        grid = old[1:].reshape(6, 6, -1)
        tiled = grid.take(range(g), 0, mode="wrap").take(range(g), 1, mode="wrap")  # (g, g, D)
        table[1:] = tiled.reshape(g * g, -1)
    elif positions == "mean":
        table[1:] = old[1:].mean(0)
    elif positions == "shuffled":
        table[1:] = table[1:][np.random.default_rng(seed).permutation(g * g)]
    else:
        table[1:] = ViT.create(model.config, seed=seed).params["positions"]["table"][1:]
    model.params["positions"]["table"] = table
    return model


def evaluate_models():
    """Yield the rows of epoch 0."""
    for images, size, methods in CONDITIONS:
        if images == "wider":
            dataset = data.load_scattered(n=1, size=size)
        else:
            dataset = resize_dataset(data.load_scattered(n=1), (size, size), 1)
        for positions in methods:
            for seed in SEEDS if positions in RANDOM else SEEDS[:1]:
                model = load_model(size, positions, seed)
                score = evaluate(model, dataset.held_out_images, dataset.held_out_labels)
                yield images, size, positions, "", seed, 0, score.accuracy


def fine_tune_models(size=36):
    """Yield the rows of the fine-tuned models."""
    enlarged = resize_dataset(data.load_scattered(n=3200), (size, size), 1)
    for positions, trained in FINE_TUNED:
        for seed in SEEDS:
            model = replace_head(load_model(size, positions, seed), classes=10)
            recipe = dataclasses.replace(RECIPE, seed=seed, freeze=trained == "head")
            with tempfile.TemporaryDirectory() as folder:
                train(model, enlarged, recipe, folder)
                log = read_log(Path(folder) / "log.csv")
            for row in log:
                accuracy = row["validation_accuracy"]
                yield "enlarged", size, positions, trained, seed, row["epoch"], accuracy


def main():
    """Evaluate and fine-tune all models, and write the CSV file."""
    with open(Path(__file__).with_suffix(".csv"), "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["images", "size", "positions", "trained", "seed", "epoch", "accuracy"])
        for rows in (evaluate_models(), fine_tune_models()):
            for *row, accuracy in rows:
                print(*row, accuracy, flush=True)
                table.writerow([*row, f"{accuracy:.4f}"])


if __name__ == "__main__":
    main()
