"""The scattered digits at other sizes, by what is done with the positions: larger_image.csv.

    python chapters/measured/larger_image.py        (10 to 20 minutes)

The model is the one that minivit brings along, trained at 24 pixels with patches of 4. `images`
says what it is shown: "enlarged" are the held-out images brought to `size` by bilinear
interpolation; "wider" are scenes made for that size, with the digit and six scraps as large as
ever. `positions` says where those of the patches come from: the old table "aligned", "bilinear"
or "bicubic", or "tiled" (repeated from the left and from the top); their "mean" alone, at every
place; "shuffled", the aligned ones in a random order; "fresh", drawn as before a training. The
class token keeps its own.

Epoch 0 is the old model, right away. Then come the epochs of a fine-tuning of all ("body") or of
the head alone ("head"), both from a head of zeros. An epoch is 50 steps of 64 enlarged images out
of 3,200. What is drawn at random has the seed. The accuracy is that on 2,000 held-out images.
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
DRAWN = ("shuffled", "fresh")  # with each of the seeds
SHOWN = [
    ("enlarged", 24, (*RESIZED, *OTHERS)),
    ("enlarged", 28, (*RESIZED, *OTHERS)),
    ("enlarged", 32, ("aligned",)),
    ("enlarged", 36, (*RESIZED, *OTHERS)),
    ("enlarged", 48, ("aligned",)),
    ("wider", 28, ("aligned",)),
    ("wider", 36, (*RESIZED, *OTHERS)),
]
TUNED = [("aligned", "body"), ("bicubic", "body"), ("fresh", "body"), ("aligned", "head")]
RECIPE = dataclasses.replace(
    FINE_TUNING, epochs=4, batch_size=64, learning_rate=0.03, warmup=0.2, shards=2
)


def with_positions(size, positions, seed):
    """The model for images of this size."""
    model = ViT.load(data.SCATTERED_MODEL, image_size=size)
    old = ViT.load(data.SCATTERED_MODEL).params["positions"]["table"]
    table, g = model.params["positions"]["table"], size // 4  # (T, D), already "aligned"
    if positions in RESIZED:
        table = resize_positions(old, (6, 6), (g, g), positions)
    elif positions == "tiled":
        table[1:] = old[1:].reshape(6, 6, -1).take(range(g), 0, mode="wrap").take(
            range(g), 1, mode="wrap").reshape(g * g, -1)  # fmt: skip
    elif positions == "mean":
        table[1:] = old[1:].mean(0)
    elif positions == "shuffled":
        table[1:] = table[1:][np.random.default_rng(seed).permutation(g * g)]
    else:
        table[1:] = ViT.create(model.config, seed=seed).params["positions"]["table"][1:]
    model.params["positions"]["table"] = table
    return model


def right_away():
    """The rows of epoch 0."""
    for images, size, every in SHOWN:
        if images == "wider":
            shown = data.load_scattered(n=1, size=size)
        else:
            shown = resize_dataset(data.load_scattered(n=1), (size, size), 1)
        for positions in every:
            for seed in SEEDS if positions in DRAWN else SEEDS[:1]:
                model = with_positions(size, positions, seed)
                score = evaluate(model, shown.held_out_images, shown.held_out_labels)
                yield images, size, positions, "", seed, 0, score.accuracy


def tuned(seeds=SEEDS, size=36):
    """The rows of the fine-tunings."""
    enlarged = resize_dataset(data.load_scattered(n=3200), (size, size), 1)
    for positions, trained in TUNED:
        for seed in seeds:
            model = replace_head(with_positions(size, positions, seed), classes=10)
            recipe = dataclasses.replace(RECIPE, seed=seed, freeze=trained == "head")
            with tempfile.TemporaryDirectory() as folder:
                train(model, enlarged, recipe, folder)
                log = read_log(Path(folder) / "log.csv")
            for row in log:
                accuracy = row["held_out_accuracy"]
                yield "enlarged", size, positions, trained, seed, row["epoch"], accuracy


def main():
    with open(Path(__file__).with_suffix(".csv"), "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["images", "size", "positions", "trained", "seed", "epoch", "accuracy"])
        for part in (right_away(), tuned()):
            for *row, accuracy in part:
                print(*row, accuracy, flush=True)
                table.writerow([*row, f"{accuracy:.4f}"])


if __name__ == "__main__":
    main()
