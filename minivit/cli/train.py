"""Train a ViT on a data set, fine-tune a model, or resume an interrupted run.

examples:
  python -m minivit train --seed 1 --out runs/second
  python -m minivit train --resume
  python -m minivit train --data flowers/ --image-size 96 --print-config > flowers.txt
  python -m minivit train @flowers.txt --epochs 50
  python -m minivit train --from vit.npz --data digits --image-size 96
  python -m minivit train --from vit.npz --freeze
  python -m minivit train --data cifar10 --device gpu --precision tf32
"""

import argparse
import shlex
import sys
import textwrap
from pathlib import Path

from .. import analysis, cost, data, devices, training
from ..api import ViT
from ..models import ViTConfig
from ..training import Recipe, get_preset, make_recipe
from ..training.presets import DIGITS
from ..training.progress import CHECKPOINT
from ..tree import count_parameters
from . import common, options
from .options import CLASS_NAMES, UsageError, option_name, positive
from .print_config import format_config, unused_fields

LOG, FIGURES = "log.csv", ("curves.png", "attention.png")
USABLE = 0.9  # fraction of the GPU memory; cuBLAS and fragmentation take the rest
DATA_ADVICE = "Pass the data set of this run with --data"

OUTPUT = {
    "data": (options.parse_data, "NAME|FOLDER", f"data set: {options.DATA_HELP} (default: digits; "
        "with --resume, that of the run)", None),
    "out": (Path, "FOLDER", "output folder (default: runs/NAME or, with --from, runs/NAME-tuned)",
        None),
    "origin": (Path, "FILE", f"fine-tune this model with a new head: {options.MODEL_FILE}", None),
}  # fmt: skip
EXCLUSIVE = {
    "resume": (bool, None, "continue the interrupted run in --out", False),
    "overwrite": (bool, None, "replace the interrupted run in --out", False),
    "print_config": (bool, None, "print all options in effect, as input for `train @FILE`", False),
}
NO_OPTION = ("channels", "classes", "qkv_bias", "patch_bias")
MODEL = {name: option for name, option in options.FIELDS.items() if name not in NO_OPTION}
FINE_TUNING = (*options.FILE, "dropout", "drop_path")  # fields that --from accepts
OPTIMISATION = {
    "epochs": (positive, "N", "passes over the training images"),
    "batch_size": (positive, "N", "images per step"),
    "optimiser": (tuple(training.OPTIMISERS), None, "AdamW, or SGD with momentum"),
    "learning_rate": (float, "LR", "peak learning rate"),
    "warmup": (float, "EPOCHS", "epochs of linear warm-up"),
    "schedule": (training.SCHEDULES, None, "decay of the learning rate after the warm-up"),
    "weight_decay": (float, "W", "decoupled weight decay, applied to kernels only"),
    "grad_clip": (float, "NORM", "maximum global gradient norm; 0 disables clipping"),
    "label_smoothing": (float, "S", "probability spread evenly over all classes, 0 to 1"),
    "ema": (float, "DECAY", "decay of the moving average of the weights, 0 to 1; 0 disables it"),
    "freeze": (bool, None, "train only the head"),
    "seed": (int, "N", "seed of all random numbers"),
    "grad_accumulation": (positive, "N", "micro-batches per batch; more of them save memory"),
    "shards": options.SHARDS,
    "threads": options.THREADS,
}
AUGMENTATION = {
    "shift": (int, "PIXELS", "maximum translation in pixels"),
    "flip": (bool, None, "mirror an image horizontally with probability 1/2"),
    "randaugment": (int, "N", "RandAugment operations per image; 0 disables it"),
    "randaugment_magnitude": (float, "M", "magnitude of the RandAugment operations, 0 to 10"),
    "random_erasing": (float, "P", "probability of erasing a rectangle of an image, 0 to 1"),
    "mixup": (float, "ALPHA", "parameter of mixup's Beta distribution; 0 disables mixup"),
    "cutmix": (float, "ALPHA", "parameter of CutMix's Beta distribution; 0 disables CutMix"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    # `train @FILE` reads the options from the output of --print-config.
    parser.fromfile_prefix_chars = "@"
    parser.convert_arg_line_to_args = lambda arg_line: shlex.split(arg_line, comments=True)
    parser.description = f"{parser.description}\nThe defaults are for the digits. "
    parser.description += "--print-config prints those for another data set."
    options.add_options(parser, OUTPUT)
    options.add_options(parser.add_mutually_exclusive_group(), EXCLUSIVE)
    options.add_options(parser, options.DEVICE)
    text = f"--from accepts only --resize, {', '.join(map(option_name, FINE_TUNING))}."
    group = parser.add_argument_group("model", textwrap.fill(text, 90))
    options.add_options(group, MODEL | {"resize": options.RESIZE}, ViTConfig(**DIGITS))
    options.add_options(parser.add_argument_group("optimisation"), OPTIMISATION, Recipe())
    options.add_options(parser.add_argument_group("augmentation"), AUGMENTATION, Recipe())


def run(args: argparse.Namespace) -> int:
    """Train or fine-tune a model, resume a run, or print the configuration."""
    fields = options.parsed_fields(args, ViTConfig)
    settings = options.parsed_fields(args, Recipe)
    check_usage(args, fields, settings)
    name = common.output_name(args.data or "digits")
    args.out = args.out or Path("runs", name + "-tuned" * bool(args.origin))
    if args.resume:
        return resume(args)
    args.data = args.data or "digits"
    fields = get_preset(args.data).model | fields
    if "classes" not in fields:
        fields["classes"] = len(data.load_folder(args.data, (1, 1)).classes)
    try:
        recipe = make_recipe(args.data, fine_tuning=bool(args.origin), **settings)
        config = None if args.origin else ViTConfig(**fields)
    except ValueError as error:
        raise options.to_usage_error(error) from None
    if config:
        model = ViT.create(config, seed=recipe.seed)
    else:
        model = ViT.load(args.origin, **common.load_arguments(args))
        rates = {name: getattr(args, name, 0.0) for name in ("dropout", "drop_path")}
        model = training.replace_head(model, fields["classes"], **rates)
    for name, required in unused_fields(model.config, recipe).items():
        if name in args:
            print(f"note: {option_name(name)} has no effect without {required}", file=sys.stderr)
    if args.print_config:
        print(format_config(args, model, recipe, MODEL if config else FINE_TUNING))
        return 0
    if not args.overwrite and training.read_progress(args.out):
        raise ValueError(
            f"{args.out} contains an interrupted run. Pass --resume to continue it, or "
            "--overwrite to replace it"
        )
    model = model.to(args.device)
    return execute(args, model, common.load_data(args.data, model), recipe)


def check_usage(args: argparse.Namespace, fields: dict, settings: dict) -> None:
    """Raise UsageError if options contradict each other."""
    if args.resume and (fields or settings or args.origin or "resize" in args):
        raise UsageError("--resume uses the model and the recipe of the interrupted run")
    fixed = [option_name(name) for name in fields if name not in FINE_TUNING]
    if args.origin and fixed:
        raise UsageError(f"{', '.join(fixed)}: with --from, {args.origin} determines the model")
    if "resize" in args and not args.origin:
        raise UsageError("--resize requires --from")


def resume(args: argparse.Namespace) -> int:
    """Resume an interrupted run, or draw the missing figures of a complete one."""
    path = args.out / CHECKPOINT
    progress = training.read_progress(args.out)
    source = progress.source if progress else None
    if args.data is None and source and source not in training.PRESETS:
        if not Path(source).is_dir():
            raise FileNotFoundError(
                f"{path} was trained on the images in {source}, which no longer exists. Pass their "
                "folder with --data"
            )
        args.data = Path(source)
    args.data = args.data or source or "digits"
    model = ViT.load(path, device=args.device)
    dataset = common.load_data(args.data, model)
    common.check_classes(model, dataset, path, DATA_ADVICE)
    return execute(args, model, dataset, progress.recipe if progress else None)


def execute(
    args: argparse.Namespace, model: ViT, dataset: data.Dataset, recipe: Recipe | None
) -> int:
    """Train or resume, then report. Without a recipe, the run is complete."""
    resized, out = common.resize_data(dataset, model), args.out
    n, H, W, _ = resized.images.shape
    count = f"{count_parameters(model.params):,} parameters"
    if recipe and recipe.freeze:
        count += f" ({count_parameters(model.params['head']):,} of them trained)"
    images = f"{n:,} training images of {H} x {W} pixels"
    print(f"{count}; {images}, {len(dataset.held_out_images):,} held-out images")
    only_figures = args.resume and lacks_figures(out)
    try:
        if only_figures:
            print(f"{out / CHECKPOINT} is fully trained; its figures are missing")
        elif args.resume or recipe is None:
            training.resume(out, model, resized, threads=args.threads)
        else:
            write_class_names(dataset, out)
            training.train(model, resized, recipe, out, threads=args.threads)
        report(model, dataset, resized, out, only_figures)
    except MemoryError as error:
        if recipe is None or not devices.is_gpu_out_of_memory(error):
            raise
        raise RuntimeError(memory_advice(model, recipe, args.resume)) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(describe_interruption(args)) from None
    return 0


def write_class_names(dataset: data.Dataset, folder: Path) -> None:
    """Write the names of the classes for `predict`, unless they are just numbers."""
    path = folder / CLASS_NAMES
    if dataset.classes == tuple(map(str, range(len(dataset.classes)))):
        path.unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in dataset.classes), encoding="utf-8")


def lacks_figures(folder: Path) -> bool:
    """Return whether a run is complete except for its figures."""
    if not (folder / CHECKPOINT).is_file() or training.read_progress(folder):
        return False
    return not all((folder / name).exists() for name in FIGURES)


def describe_interruption(args: argparse.Namespace) -> str:
    """Return what an interrupted run has saved and how to continue it, or "" if nothing."""
    command = f"python -m minivit train --resume --out {shlex.quote(str(args.out))}"
    if progress := training.read_progress(args.out):
        saved = f"epoch {progress.epoch} of {progress.recipe.epochs}"
    elif lacks_figures(args.out):
        saved = "the trained model, but the figures are missing"
        command += f" --data {shlex.quote(options.format_value('data', args.data))}"
    else:
        return ""
    return f"interrupted: {args.out / CHECKPOINT} contains {saved}. Continue with `{command}`"


def memory_advice(model: ViT, recipe: Recipe, resumed: bool) -> str:
    """Return an error message with the largest batch size that fits the GPU memory."""
    config, B, dtype = model.config, recipe.batch_size, str(model.dtype)
    H, W = config.image_size
    images = 2 * B * H * W * config.channels * model.dtype.itemsize  # two batches
    vectors = 2 + bool(recipe.ema)  # accumulated gradients, and the averaged weights of the EMA

    def required(n: int) -> int:
        memory = cost.memory(config, n, dtype, optimiser=recipe.optimiser, shards=1, threads=1)
        return memory.training + vectors * memory.parameters + images

    size, available = -(-B // recipe.grad_accumulation), devices.available_gpu_memory()
    limit = cost.max_batch_size(int(USABLE * available), size, required)
    message = f"out of GPU memory ({cost.format_quantity(available, 'B')}) with {size} images. "
    if limit == size:
        return f"{message}They should fit; check whether another process uses the GPU"
    if not limit:
        return f"{message}A single image would not fit; use a smaller model"
    verb, parts = "start a new run with" if resumed else "pass", -(-B // limit)
    return f"{message}{limit} would fit; {verb} --batch-size {limit} or --grad-accumulation {parts}"


def report(
    model: ViT, dataset: data.Dataset, resized: data.Dataset, folder: Path, verify: bool
) -> None:
    """Save the figures of a complete run, and print its accuracy and that of a baseline.

    verify: raise ValueError if the accuracy differs from the log, as it does on another data set
    """
    log = training.read_log(folder / LOG)
    if not log:
        raise ValueError(f"{folder / LOG} has no rows, although the run is complete")
    accuracy, seconds = log[-1]["held_out_accuracy"], log[-1]["seconds"]
    held_out = resized.held_out_images, resized.held_out_labels
    if verify and abs(training.evaluate(model, *held_out).accuracy - accuracy) > 0.01:
        text = f"the accuracy on the {dataset.name} differs from {folder / LOG}"
        raise ValueError(f"{text}. {DATA_ADVICE}")
    for name in FIGURES:  # of an earlier run
        (folder / name).unlink(missing_ok=True)
    baseline = training.fit_logistic_regression(dataset)
    analysis.save_figure(analysis.plot_curves(log, baseline), folder / FIGURES[0])
    analysis.save_figure(analysis.plot_held_out(model, resized), folder / FIGURES[1])
    print(f"{accuracy:.2%} held-out accuracy after {seconds:.0f} s of training")
    if baseline is not None:
        print(f"{baseline:.2%} for logistic regression on the raw pixels")
    if unreadable := data.describe_unreadable(dataset):
        print(unreadable)
    names = [CHECKPOINT, *[CLASS_NAMES] * (folder / CLASS_NAMES).exists(), LOG, *FIGURES]
    print(f"saved in {folder}: {', '.join(names)}")
