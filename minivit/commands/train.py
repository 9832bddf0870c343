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
from .arguments import fail, fit, given, load, must_fit, reading

INTERRUPTED = 130  # what shells report after Ctrl-C
FIGURES = ("curves.png", "attention.png")


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
        model = ViT.load(args.out / "model.npz")
        must_fit(model, dataset, args.out / "model.npz")
    elif args.origin:
        model = tuned(args, len(dataset.classes))
    else:
        model = ViT.create(config, seed=recipe.seed)
    fitted = fit(dataset, model)
    print(summary(model, fitted, recipe.freeze))
    try:
        if args.resume and lacks_figures(args.out):
            must_be_of_log(model, fitted, args.out)
            print(f"{args.out / 'model.npz'} is fully trained: only its figures are drawn")
        elif args.resume:
            training.resume(args.out, model, fitted, threads=args.threads)
        else:
            training.train(model, fitted, recipe, args.out, threads=args.threads)
        report(model, dataset, args.out)
    except KeyboardInterrupt:
        where = args.out / "model.npz"
        if training.is_unfinished(args.out):
            left = f"{where} holds epoch {training.epochs_done(args.out)}; --resume goes on"
        elif lacks_figures(args.out):
            left = f"{where} is fully trained; --resume draws its figures"
        else:
            raise
        print(f"\nstopped: {left}", file=sys.stderr)
        return INTERRUPTED
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


def tuned(args: argparse.Namespace, classes: int) -> ViT:
    """The model of a file, ready to be fine-tuned: with a new head, and for images of any size."""
    model = load(args.origin, **reading(args))
    return training.for_fine_tuning(model, classes, args.dropout or 0.0)


def summary(model: ViT, dataset: data.Dataset, freeze: bool) -> str:
    """How large the model is, how much of it is trained, and on what."""
    trained = f", {count(model.params['head']):,} of them trained" if freeze else ""
    n, H, W, _ = dataset.images.shape
    return (
        f"{count(model.params):,} parameters{trained}; {n:,} images of {H} x {W} to train on, "
        f"{len(dataset.held_out_images):,} held out"
    )


def lacks_figures(folder: Path) -> bool:
    """Whether the training in a folder is complete, but was stopped before its figures were."""
    if not (folder / "model.npz").is_file() or training.is_unfinished(folder):
        return False
    return not all((folder / name).exists() for name in FIGURES)


def must_be_of_log(model: ViT, dataset: data.Dataset, folder: Path) -> None:
    """Raise ValueError if a trained model scores otherwise than its log says: on other data."""
    score = training.evaluate(model, dataset.held_out_images, dataset.held_out_labels)
    logged = training.read_log(folder / "log.csv")[-1]["held_out_accuracy"]
    if abs(score.accuracy - logged) > 0.01:
        raise ValueError(f"{folder / 'log.csv'} is of other images than the {dataset.name}")


def report(model: ViT, dataset: data.Dataset, folder: Path) -> None:
    """The figures of a finished training, and its accuracy beside that of a linear model."""
    for name in FIGURES:                                      # those of a training before
        (folder / name).unlink(missing_ok=True)
    log = training.read_log(folder / "log.csv")
    baseline = training.logistic_regression(dataset)
    analysis.plot_curves(log, folder / "curves.png", baseline)
    analysis.draw_held_out(model, fit(dataset, model), folder / "attention.png")
    accuracy, seconds = log[-1]["held_out_accuracy"], log[-1]["seconds"]
    print(f"{accuracy:.2%} of the held-out images right, after {seconds:.0f} s of training")
    print(f"{baseline:.2%} by logistic regression on the raw pixels")
    print(f"in {folder}: model.npz, log.csv, curves.png, attention.png")
