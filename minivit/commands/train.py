"""`train`: from the start, from a file's weights, or on where a training was interrupted."""

import argparse
import sys
from pathlib import Path
from typing import Any

from .. import analysis, data, training
from ..model import ViT
from ..models import ViTConfig
from ..options import OF_A_FILE, PRESETS, TUNING
from ..tree import count
from .arguments import fail, fit, given, load, load_for

INTERRUPTED = 130  # what shells report after Ctrl-C


def train(args: argparse.Namespace) -> int:
    """Train from the start or from a file's weights, or go on where a training was interrupted."""
    fields, settings = given(args, ViTConfig), given(args, training.Recipe)
    check_usage(args, fields, settings)
    shape, how = PRESETS[args.data]
    if args.origin:
        how = TUNING[args.data]
    args.out = args.out or Path("runs") / (f"{args.data}-tuned" if args.origin else args.data)
    try:
        config = ViTConfig(**shape if args.origin else shape | fields)
        recipe = training.Recipe(**how | settings)
    except ValueError as error:
        args.usage_error(str(error))
    if not (args.resume or args.overwrite) and training.is_unfinished(args.out):
        return fail(f"{args.out} holds an unfinished training: --resume it, or --overwrite")
    dataset = data.DATASETS[args.data]()
    if args.resume:
        model = load_for(dataset, args.out / "model.npz")
    elif args.origin:
        model = tuned(args, fields, len(dataset.classes))
    else:
        model = ViT.create(config, seed=recipe.seed)
    fitted = fit(dataset, model)
    n, held_out = len(dataset.images), len(dataset.held_out_images)
    print(f"{count(model.params):,} parameters; {n:,} images to train on, {held_out} held out")
    try:
        if args.resume:
            training.resume(args.out, model, fitted, threads=args.threads)
        else:
            training.train(model, fitted, recipe, args.out, threads=args.threads)
    except KeyboardInterrupt:
        if not training.is_unfinished(args.out):
            raise
        where, epochs = args.out / "model.npz", training.epochs_done(args.out)
        print(f"\nstopped: {where} holds epoch {epochs}; --resume goes on", file=sys.stderr)
        return INTERRUPTED
    report(model, dataset, args.out)
    return 0


def check_usage(
    args: argparse.Namespace, fields: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Refuse options that do not go together: what a training or a file has decided already."""
    if args.resume and (fields or settings or args.origin or args.resize):
        args.usage_error("--resume goes on as begun: it takes no other model and no other recipe")
    fixed = [f"--{name.replace('_', '-')}" for name in fields if name not in OF_A_FILE]
    if args.origin and fixed:
        args.usage_error(f"{', '.join(fixed)}: with --from, the model is the one in {args.origin}")
    if args.resize and not args.origin:
        args.usage_error("--resize is of the positions in a file: it goes with --from")


def tuned(args: argparse.Namespace, fields: dict[str, Any], classes: int) -> ViT:
    """The model of a file, ready to be fine-tuned: with a new head, and for images of any size."""
    dropout = fields.pop("dropout", 0.0)
    if args.resize:
        fields["resize"] = args.resize
    return training.for_fine_tuning(load(args.origin, **fields), classes, dropout)


def report(model: ViT, dataset: data.Dataset, folder: Path) -> None:
    """The figures of a finished training, and its accuracy beside that of a linear model."""
    log = training.read_log(folder / "log.csv")
    baseline = training.logistic_regression(dataset)
    analysis.plot_curves(log, folder / "curves.png", baseline)
    analysis.draw_held_out(model, fit(dataset, model), folder / "attention.png")
    accuracy, seconds = log[-1]["held_out_accuracy"], log[-1]["seconds"]
    print(f"{accuracy:.2%} of the held-out images right, after {seconds:.0f} s of training")
    print(f"{baseline:.2%} by logistic regression on the raw pixels")
    print(f"in {folder}: model.npz, log.csv, curves.png, attention.png")
