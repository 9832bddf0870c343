"""`train`: from the start, from a file's weights, or on where a training was interrupted."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from .. import analysis, cost, data, devices, training
from ..api import ViT
from ..models import ViTConfig
from ..options.parts import as_written, option
from ..options.train import OF_A_FILE
from ..training.presets import PRESETS, get_preset, make_recipe
from ..tree import count_parameters
from .arguments import CLASSES, fail, fit, given, load, name_of, read_data, reading
from .plan import as_options, idle

INTERRUPTED = 130  # what shells report after Ctrl-C
FIGURES = ("curves.png", "attention.png")
USABLE = 0.9  # of a GPU's memory: some is cuBLAS's, and pieces do not always fit
USUAL = "digits"  # what is trained on if nothing is said


def train(args: argparse.Namespace) -> int:
    """Train from the start or from a file's weights, or go on where a training was interrupted."""
    fields, settings = given(args, ViTConfig), given(args, training.Recipe)
    check_usage(args, fields, settings)
    named = name_of(args.data or USUAL)
    args.out = args.out or Path("runs") / (named + "-tuned" * bool(args.origin))
    args.data = args.data or (begun(args.out) if args.resume else USUAL)
    shape = get_preset(args.data).model | {"classes": class_count(args.data)}
    try:
        config = ViTConfig(**shape if args.origin else shape | fields)
        how = make_recipe(args.data, tuning=bool(args.origin), **settings)
    except ValueError as error:
        args.usage_error(str(error))
    for name, needed in idle(config, how).items():
        if name in fields | settings:
            print(f"note: {option(name)} changes nothing without {needed}", file=sys.stderr)
    if args.print_config:
        print(as_options(args, model_for(args, config, how.seed), how))
        return 0
    if not (args.resume or args.overwrite) and training.is_unfinished(args.out):
        return fail(f"{args.out} holds an unfinished training: --resume it, or --overwrite")
    model = model_for(args, config, how.seed).to(args.device)
    dataset = read_data(args.data, model)
    if args.resume:
        must_go_on(model, dataset, args.out / "model.npz")
    return carry_out(args, model, dataset, how)


def model_for(args: argparse.Namespace, config: ViTConfig, seed: int) -> ViT:
    """The model to train: that of the training to go on with, one made of a file's, or a new one.

    A file's goes on under a new head, for images of any size.
    """
    if args.resume:
        return ViT.load(args.out / "model.npz")
    if args.origin:
        model = load(args.origin, **reading(args))
        dropout, drop_path = args.dropout or 0.0, args.drop_path or 0.0
        return training.replace_head(model, config.classes, dropout, drop_path)
    return ViT.create(config, seed=seed)


def carry_out(
    args: argparse.Namespace, model: ViT, dataset: data.Dataset, how: training.Recipe
) -> int:
    """Train, or go on training, and report. Ctrl-C ends it with a line that tells what is left."""
    fitted = fit(dataset, model)
    print(summary(model, fitted, how.freeze))
    try:
        if args.resume and lacks_figures(args.out):
            must_be_of_log(model, fitted, args.out)
            print(f"{args.out / 'model.npz'} is fully trained: only its figures are drawn")
        elif args.resume:
            training.resume(args.out, model, fitted, threads=args.threads)
        else:
            name_classes(dataset, args.out)
            training.train(model, fitted, how, args.out, threads=args.threads)
        report(model, dataset, args.out)
    except MemoryError as error:
        going_on = args.resume and training.is_unfinished(args.out)
        if not devices.is_gpu_out_of_memory(error) or going_on != args.resume:
            raise
        how = training.begun_with(args.out) if going_on else how
        return fail(what_fits(model, how, "in a training begun anew " * going_on))
    except KeyboardInterrupt:
        where = args.out / "model.npz"
        if training.is_unfinished(args.out):
            left = f"{where} holds epoch {training.epochs_done(args.out)}; --resume goes on"
        elif lacks_figures(args.out):
            on = shlex.quote(as_written(args.data))
            left = f"{where} is fully trained; --resume --data {on} draws its figures"
        else:
            raise
        print(f"\nstopped: {left}", file=sys.stderr)
        return INTERRUPTED
    return 0


def what_fits(model: ViT, how: training.Recipe, where: str = "") -> str:
    """That the GPU's memory does not do for a training, and for how many images it would."""
    H, W = model.config.image_size
    batches = 2 * how.batch_size * H * W * model.config.channels * model.dtype.itemsize
    vectors = 2 + bool(how.ema)  # sums of pieces; the mean weights

    def needs(images: int) -> int:
        foreseen = cost.memory(
            model.config, images, str(model.dtype), optimiser=how.optimiser, shards=1, threads=1
        )
        return foreseen.training + vectors * foreseen.parameters + batches

    piece, available = -(-how.batch_size // how.grad_accumulation), devices.available_gpu_memory()
    most = cost.fits(int(USABLE * available), piece, needs)
    said = f"out of device memory ({cost.figure(available, 'B')}) with {piece} images at once"
    if most == piece:
        return f"{said}, though they should fit: does something else use the GPU?"
    if not most:
        return f"{said}: not even one would fit, take a smaller model"
    options = f"--batch-size {most} or --grad-accumulation {-(-how.batch_size // most)}"
    return f"{said}: {most} would fit, {where}with {options}"


def check_usage(args: argparse.Namespace, fields: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuse options that do not go together: what a training or a file has decided already."""
    if args.resume and (fields or settings or args.origin or args.resize):
        args.usage_error("--resume goes on as begun: it takes no other model and no other recipe")
    if args.resume and args.print_config:
        args.usage_error("--resume goes on as begun: --print-config is of a new training")
    fixed = [option(name) for name in fields if name not in OF_A_FILE]
    if args.origin and fixed:
        args.usage_error(f"{', '.join(fixed)}: with --from, the model is the one in {args.origin}")
    if args.resize and not args.origin:
        args.usage_error("--resize is of the positions in a file: it goes with --from")


def begun(folder: Path) -> str | Path:
    """The data that the training in a folder began on, or the usual ones if it does not tell.

    Raises FileNotFoundError for images that are no longer where they were.
    """
    source = training.begun_on(folder) or USUAL
    if source in PRESETS:
        return source
    if not Path(source).is_dir():
        raise FileNotFoundError(
            f"{folder / 'model.npz'} was training on the images in {source}, which is no folder "
            "now: say with --data where they are"
        )
    return Path(source)


def class_count(named: str | Path) -> int:
    """How many classes a data set has; of a folder the names of its files are looked at."""
    known = get_preset(named).model.get("classes")
    return known or len(data.load_folder(named, (1, 1)).classes)


def must_go_on(model: ViT, dataset: data.Dataset, path: Path) -> None:
    """Raise ValueError if the images a training goes on with cannot be those that it began with."""
    known, K = model.config.classes, len(dataset.classes)
    if known != K:
        raise ValueError(
            f"{path} is of {known} classes, and the {dataset.name} are of {K}: "
            "say with --data on what it was training"
        )


def name_classes(dataset: data.Dataset, folder: Path) -> None:
    """Write down what the classes are called, for `predict`, if they are more than numbers."""
    path = folder / CLASSES
    if dataset.classes == tuple(map(str, range(len(dataset.classes)))):
        path.unlink(missing_ok=True)  # it was of a training before
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in dataset.classes), encoding="utf-8")


def summary(model: ViT, dataset: data.Dataset, freeze: bool) -> str:
    """How large the model is, how much of it is trained, and on what."""
    trained = f", {count_parameters(model.params['head']):,} of them trained" if freeze else ""
    n, H, W, _ = dataset.images.shape
    return (
        f"{count_parameters(model.params):,} parameters{trained}; {n:,} images of {H} x {W} to train on, "
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
    logged = whole_log(folder)[-1]["held_out_accuracy"]
    if abs(score.accuracy - logged) > 0.01:
        raise ValueError(
            f"{folder / 'log.csv'} is of other images than the {dataset.name}: "
            "say with --data on what it was training"
        )


def whole_log(folder: Path) -> list[dict[str, float]]:
    """The log of a finished training. Raises ValueError if it has no rows."""
    log = training.read_log(folder / "log.csv")
    if not log:
        raise ValueError(f"{folder / 'log.csv'} has no rows, but {folder / 'model.npz'} is trained")
    return log


def report(model: ViT, dataset: data.Dataset, folder: Path) -> None:
    """The figures of a finished training, and its accuracy beside that of a linear model."""
    for name in FIGURES:  # those of a training before
        (folder / name).unlink(missing_ok=True)
    log = whole_log(folder)
    baseline = training.fit_logistic_regression(dataset)
    analysis.plot_curves(log, folder / "curves.png", baseline)
    analysis.draw_held_out(model, fit(dataset, model), folder / "attention.png")
    accuracy, seconds = log[-1]["held_out_accuracy"], log[-1]["seconds"]
    print(f"{accuracy:.2%} of the held-out images right, after {seconds:.0f} s of training")
    if baseline is not None:
        print(f"{baseline:.2%} by logistic regression on the raw pixels")
    if data.describe_unreadable(dataset):
        print(data.describe_unreadable(dataset))
    names = ["model.npz", *[CLASSES] * (folder / CLASSES).exists(), "log.csv", *FIGURES]
    print(f"in {folder}: {', '.join(names)}")
