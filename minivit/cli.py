"""The command line: python -m minivit COMMAND. Arguments in, calls out."""

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import analysis, data, exercises, proofs, training
from . import exercise as grader
from .checker import PASS
from .layers import softmax
from .model import ViT
from .models import ViTConfig
from .options import PRESETS, WEIGHTS, build_parser
from .tree import count

INTERRUPTED = 130  # what shells report after Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 after a failure, 2 for bad usage."""
    args = build_parser().parse_args(arguments)
    commands = [train, evaluate, predict, attention, gradcheck, exercise]
    command = {function.__name__: function for function in commands}[args.command]
    try:
        with warnings.catch_warnings():  # a loss that overflows is reported, once, as an error
            warnings.simplefilter("ignore", RuntimeWarning)
            return command(args)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has left: `... | head`
        sys.stderr.close()
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return fail(f"{where}{error.strerror or error}")
    except MemoryError:
        return fail("out of memory: a smaller --batch or more --shards need less")
    except (ValueError, TypeError, FloatingPointError) as error:
        return fail(str(error))


def fail(message: str) -> int:
    """Say in one line what went wrong."""
    print(f"minivit: error: {message}", file=sys.stderr)
    return 1


def train(args: argparse.Namespace) -> int:
    """Train from the start, or go on where a training was interrupted."""
    fields, settings = given(args, ViTConfig), given(args, training.Recipe)
    if args.resume and (fields or settings):
        args.usage_error("--resume goes on as begun: it takes no other model and no other recipe")
    shape, how = PRESETS[args.data]
    args.out = args.out or Path("runs") / args.data
    try:
        config, recipe = ViTConfig(**shape | fields), training.Recipe(**how | settings)
    except ValueError as error:
        args.usage_error(str(error))
    if not (args.resume or args.overwrite) and training.is_unfinished(args.out):
        return fail(f"{args.out} holds an unfinished training: --resume it, or --overwrite")
    dataset = data.DATASETS[args.data]()
    if args.resume:
        model = load_for(dataset, args.out / "model.npz")
    else:
        model = ViT.create(config, seed=recipe.seed)
    n, held_out = len(dataset.images), len(dataset.held_out_images)
    print(f"{count(model.params):,} parameters; {n:,} images to train on, {held_out} held out")
    try:
        if args.resume:
            training.resume(args.out, model, dataset, threads=args.threads)
        else:
            training.train(model, dataset, recipe, args.out, threads=args.threads)
    except KeyboardInterrupt:
        if not training.is_unfinished(args.out):
            raise
        where, epochs = args.out / "model.npz", training.epochs_done(args.out)
        print(f"\nstopped: {where} holds epoch {epochs}; --resume goes on", file=sys.stderr)
        return INTERRUPTED
    report(model, dataset, args.out)
    return 0


def report(model: ViT, dataset: data.Dataset, folder: Path) -> None:
    """The figures of a finished training, and its accuracy beside that of a linear model."""
    log = training.read_log(folder / "log.csv")
    baseline = training.logistic_regression(dataset)
    analysis.plot_curves(log, folder / "curves.png", baseline)
    analysis.draw_held_out(model, dataset, folder / "attention.png")
    accuracy, seconds = log[-1]["held_out_accuracy"], log[-1]["seconds"]
    print(f"{accuracy:.2%} of the held-out images right, after {seconds:.0f} s of training")
    print(f"{baseline:.2%} by logistic regression on the raw pixels")
    print(f"in {folder}: model.npz, log.csv, curves.png, attention.png")


def evaluate(args: argparse.Namespace) -> int:
    """Score a checkpoint on the held-out images of the data set that it takes."""
    model = load(args.weights)
    dataset = dataset_for(model, args.weights)
    score = training.evaluate(model, dataset.held_out_images, dataset.held_out_labels)
    n = len(dataset.held_out_labels)
    print(f"{round(score.accuracy * n)} of {n} held-out images right: {score.accuracy:.2%}")
    print(f"cross-entropy {score.loss:.4f} nats")
    return 0


def predict(args: argparse.Namespace) -> int:
    """Print the likeliest classes of each image file."""
    model = load(args.weights)
    probabilities, _ = softmax(model(read_images(model, args)))
    for path, p in zip(args.images, probabilities, strict=True):
        best = np.argsort(-p)[: args.top]
        print(f"{path}: " + ", ".join(f"{c} ({p[c]:.1%})" for c in best))
    return 0


def attention(args: argparse.Namespace) -> int:
    """Draw where a model looks, or what it has learned."""
    model = ViT.load(args.weights)
    kind, depth, layer = args.kind, model.config.depth, args.layer or -1
    if args.images and kind not in analysis.OF_IMAGES:
        args.usage_error(f"--kind {kind} is of the model alone: it takes no image files")
    if args.layer is not None and kind not in analysis.OF_A_LAYER:
        args.usage_error(f"--kind {kind} is of the whole model: it takes no --layer")
    if args.layer == 0 or abs(layer) > depth:
        args.usage_error(f"--layer goes from 1 to {depth}, or -1 to -{depth}; it is {args.layer}")
    layer -= layer > 0
    if args.images or kind not in analysis.OF_IMAGES:
        images = read_images(model, args) if args.images else None
        titles = [path.name for path in args.images]
        analysis.draw(model, kind, args.out, images, titles, layer)
    else:
        dataset = dataset_for(model, args.weights)
        analysis.draw_held_out(model, dataset, args.out, kind, layer)
        if dataset.held_out_boxes is not None and kind in analysis.OF_A_LAYER:
            report_boxes(model, dataset)
    print(args.out)
    return 0


def report_boxes(model: ViT, dataset: data.Dataset) -> None:
    """How much of the maps lies on the digits, over all held-out images."""
    images = dataset.held_out_images
    shares = analysis.shares_inside(model, images, dataset.held_out_boxes)
    chance = shares.pop("chance")
    for name, share in shares.items():
        print(
            f"{name}: {share:.1%} of the mass in the digit's box, which is {chance:.1%} of the "
            f"image (mean of {len(images):,} held-out images)"
        )


def dataset_for(model: ViT, path: Path) -> data.Dataset:
    """The data set whose images a checkpoint takes. Raises ValueError if there is none."""
    H, W, C = takes = (*model.config.image_size, model.config.channels)
    for name, (shape, _) in PRESETS.items():
        if takes == (shape["image_size"], shape["image_size"], shape["channels"]):
            dataset = data.DATASETS[name](n=1)                # only the held-out part is wanted
            must_fit(model, dataset, path)
            return dataset
    raise ValueError(
        f"{path} takes images of {H} x {W} x {C}, which no data set here has: name image files"
    )


def load(path: Path) -> ViT:
    """The model of a checkpoint. Raises FileNotFoundError that says how the usual one is made."""
    if path == WEIGHTS and not path.exists():
        raise FileNotFoundError(f"there is no {path} yet: `python -m minivit train` makes it")
    return ViT.load(path)


def load_for(dataset: data.Dataset, path: Path) -> ViT:
    """The model of a checkpoint, if it can read the images of this data set."""
    model = ViT.load(path)
    must_fit(model, dataset, path)
    return model


def must_fit(model: ViT, dataset: data.Dataset, path: Path) -> None:
    """Raise ValueError if the model takes other images, or tells other classes apart."""
    c = model.config
    takes, given = (*c.image_size, c.channels), dataset.images.shape[1:]
    if takes != given or c.classes != len(dataset.classes):
        raise ValueError(
            f"{path} does not fit the {dataset.name}: it takes images of {takes} and knows "
            f"{c.classes} classes, these are {given} and {len(dataset.classes)}"
        )


def read_images(model: ViT, args: argparse.Namespace) -> np.ndarray:
    """The image files of the command line, as the model takes them."""
    size, channels = model.config.image_size, model.config.channels
    images = np.stack([data.read_image(path, size, channels) for path in args.images])
    return -images if args.invert else images


def gradcheck(args: argparse.Namespace) -> int:
    """Check every gradient, or those whose names have the given words."""
    worst, wrong, line = -1.0, [], "{:34} {:38} {}"
    for proof in proofs.all_proofs():
        if not all(word in proof.name for word in args.words):
            continue
        if worst < 0:
            print(line.format("function", "argument", "error"))
        errors = proof.check()
        for name, error in (errors if args.all else by_part(errors)).items():
            print(line.format(proof.name, name, f"{error:.1e}"), flush=True)
        worst = max(worst, errors.worst)
        wrong += [f"{proof.name}, {text}" for text in errors.explanation.splitlines()]
    if worst < 0:
        args.usage_error(f"no function's name has all of: {' '.join(args.words)}")
    print(f"worst error {worst:.1e}; up to {PASS:.0e} is rounding")
    for text in wrong:
        print(text)
    return int(not worst <= PASS)


def exercise(args: argparse.Namespace) -> int:
    """Begin an exercise of the book, grade what was written, or look it up."""
    if args.chapter is None:
        if args.start or args.hint or args.solution:
            args.usage_error("of which exercise? Name its chapter")
        print(exercises.listing())
        return 0
    try:
        chosen = exercises.find(args.chapter)
    except ValueError as error:
        args.usage_error(str(error))
    if args.hint or args.solution:
        text = exercises.hint(chosen, args.hint) if args.hint else exercises.solution(chosen)
        print(text)
        return 0
    if args.start:
        print(f"{grader.start(chosen)}: write there, then `{chosen.command}`")
        return 0
    verdict = grader.grade_apart(chosen)
    print(grader.report(chosen, verdict))
    return int(bool(verdict.failed))


def by_part(errors: dict[str, float]) -> dict[str, float]:
    """The worst error of each part of a model; all blocks are one part."""
    parts: dict[str, float] = {}
    for name, error in errors.items():
        part = "/".join(name.split("/")[:2]) if name.startswith("params/") else name
        parts[part] = max(parts.get(part, 0.0), error)
    return parts


def given(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """The fields of a dataclass that the command line sets."""
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
