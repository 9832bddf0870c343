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
import contextlib
import shlex
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

from .. import data, devices, training
from ..api import ViT
from ..models import ViTConfig
from ..models.config import named_fields
from ..terminal import print_message
from ..training import Recipe, get_preset, make_recipe
from ..training.presets import DIGITS
from ..training.signals import Interrupted, SignalHandler, handle_signals
from ..tree import count_parameters
from ..weights import CHECKPOINT
from . import common, memory, options
from .options import UsageError, integer, number, option_name, positive
from .outputs import DATA_ADVICE, OUTPUTS, missing_files, report, write_class_names
from .print_config import format_config, unused_fields

VALIDATION = {
    "validation": (number, "SHARE", "share of the training images of each class that is set aside "
        "to evaluate each epoch, at least 0 and below 1; 0 evaluates none"),
}  # fmt: skip
DATA = {
    "data": (options.parse_data, "NAME|FOLDER", f"data set: {options.DATA_HELP} (default: digits; "
        "with --resume, that of the run)", None),
}  # fmt: skip
SOURCE = {
    "origin": (options.parse_path, "PATH", "fine-tune this model with a new head: "
        f"{options.MODEL_FILE} (default: train a new model)", None),
    "model": (str, "NAME", "sizes of a model of the paper, such as ViT-Ti/4, or of timm, such as "
        "vit_tiny_patch16_224 (default: the sizes below)", None),
}  # fmt: skip
NO_OPTION = ("channels", "classes", "qkv_bias", "patch_bias")
FINE_TUNING = (*options.FILE, "dropout", "drop_path")  # fields that --from accepts
MODEL = {name: option for name, option in options.FIELDS.items() if name not in NO_OPTION}
OPTIMISATION = {
    "epochs": (positive, "N", "passes over the training images"),
    "batch_size": (positive, "N", "images per step"),
    "grad_accumulation": (positive, "N", "micro-batches per batch; more of them save memory"),
    "optimiser": (tuple(training.OPTIMISERS), None, "AdamW, or SGD with momentum"),
    "learning_rate": (number, "LR", "peak learning rate"),
    "warmup": (number, "EPOCHS", "epochs of linear warm-up"),
    "schedule": (training.SCHEDULES, None, "decay of the learning rate after the warm-up"),
    "grad_clip": (number, "NORM", "maximum global gradient norm; 0 disables clipping"),
    "freeze": (bool, None, "train only the head"),
    "seed": (integer, "N", "seed of all random numbers"),
}
REGULARISATION = {
    "weight_decay": (number, "W", "decoupled weight decay, applied to kernels only"),
    "label_smoothing": (number, "S", "probability spread evenly over all classes, 0 to 1"),
    "ema": (number, "DECAY", "decay of the moving average of the weights, 0 to 1; 0 disables it"),
    "shift": (integer, "PIXELS", "maximum translation in pixels"),
    "flip": (bool, None, "mirror an image horizontally with probability 1/2"),
    "randaugment": (integer, "N", "RandAugment operations per image; 0 disables it"),
    "randaugment_magnitude": (number, "M", "magnitude of the RandAugment operations, 0 to 10"),
    "random_erasing": (number, "P", "probability of erasing a rectangle of an image, 0 to 1"),
    "mixup": (number, "ALPHA", "parameter of mixup's Beta distribution; 0 disables mixup"),
    "cutmix": (number, "ALPHA", "parameter of CutMix's Beta distribution; 0 disables CutMix"),
}
DROPOUT = {name: MODEL.pop(name) for name in ("dropout", "drop_path")}
OUTPUT = {
    "out": (options.parse_path, "FOLDER", "output folder (default: runs/NAME or, with --from, "
        "runs/NAME-tuned)", None),
}  # fmt: skip
EXCLUSIVE = {
    "resume": (bool, None, "continue the interrupted run in --out", False),
    "overwrite": (bool, None, "replace the interrupted run in --out", False),
    "print_config": (bool, None, "print all options in effect, as input for `train @FILE`", False),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.description = f"{parser.description}\nThe defaults are for the digits. "
    parser.description += "--print-config prints those for another data set."
    group = parser.add_argument_group("data")
    options.add_options(group, DATA | options.MAX_PIXELS)
    options.add_options(group, VALIDATION, Recipe())
    text = f"--from accepts only --resize, {', '.join(map(option_name, FINE_TUNING))}."
    group = parser.add_argument_group("model", textwrap.fill(text, 90))
    model = ViTConfig(**DIGITS)
    options.add_options(group, SOURCE | MODEL | {"resize": options.RESIZE}, model)
    options.add_options(parser.add_argument_group("optimisation"), OPTIMISATION, Recipe())
    group = parser.add_argument_group("regularisation")
    options.add_options(group, REGULARISATION, Recipe())
    options.add_options(group, DROPOUT, model)
    group = parser.add_argument_group("device")
    options.add_options(group, options.DEVICE | {"threads": options.THREADS})
    options.add_options(group, {"shards": options.SHARDS}, Recipe())
    group = parser.add_argument_group("output")
    options.add_options(group, OUTPUT)
    options.add_options(group.add_mutually_exclusive_group(), EXCLUSIVE)


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
    try:
        sizes = named_fields(args.model) if args.model else {}
    except ValueError as error:
        raise UsageError(f"--model: {error}") from None
    fields = get_preset(args.data).model | sizes | fields
    if "classes" not in fields:
        fields["classes"] = len(data.load_folder(args.data, (1, 1)).classes)
    try:
        recipe = make_recipe(args.data, fine_tuning=bool(args.origin), **settings)
        config = None if args.origin else ViTConfig(**fields)
    except ValueError as error:
        raise options.to_usage_error(error) from None
    if config:
        memory.check_parameters(config)
        model = ViT.create(config, seed=recipe.seed)
    else:
        model = common.load_file(args.origin, args)
        rates = {name: getattr(args, name, 0.0) for name in ("dropout", "drop_path")}
        model = training.replace_head(model, fields["classes"], **rates)
    for name, required in unused_fields(model.config, recipe).items():
        if name in args:
            print_message(f"note: {option_name(name)} has no effect without {required}")
    if 0 < recipe.epochs <= recipe.warmup:
        text = f"the warm-up of {recipe.warmup:g} epochs is not shorter than the training, so the "
        print_message(f"note: {text}learning rate does not reach its peak. Pass a smaller --warmup")
    if args.print_config:
        print(format_config(args, model, recipe, MODEL | DROPOUT if config else FINE_TUNING))
        return 0
    with training.lock_folder(args.out, OUTPUTS), explain_interruptions(args):
        progress = None if args.overwrite else training.read_progress(args.out)
        if progress and not progress.complete:
            raise ValueError(
                f"{args.out} contains an interrupted run. Pass --resume to continue it, or "
                "--overwrite to replace it"
            )
        model = model.to(args.device)
        return execute(
            args, model, common.load_data(args.data, model, max_pixels=args.max_pixels), recipe
        )


def check_usage(args: argparse.Namespace, fields: dict, settings: dict) -> None:
    """Raise UsageError if options contradict each other."""
    if args.resume and (fields or settings or args.origin or args.model or "resize" in args):
        raise UsageError("--resume uses the model and the recipe of the interrupted run")
    fixed = [option_name(name) for name in fields if name not in FINE_TUNING]
    if args.origin and fixed:
        raise UsageError(f"{', '.join(fixed)}: with --from, {args.origin} determines the model")
    if args.origin and args.model:
        raise UsageError(f"--model: with --from, {args.origin} determines the model")
    if "resize" in args and not args.origin:
        raise UsageError("--resize requires --from")


def resume(args: argparse.Namespace) -> int:
    """Resume an interrupted run, or recreate the missing files of a complete one."""
    path = args.out / CHECKPOINT
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with training.lock_folder(args.out, OUTPUTS), explain_interruptions(args):
        progress = training.read_progress(args.out)
        source = progress.source if progress else None
        complete = progress is None or progress.complete
        if complete:
            missing = missing_files(args.out)
            if not missing:
                print(f"{path} is fully trained, and all files of the run are complete")
                return 0
            print(f"{path} is fully trained; missing or incomplete: {', '.join(missing)}")
        if args.data is None and source and source not in training.PRESETS:
            if not Path(source).is_dir():
                raise FileNotFoundError(
                    f"{path} was trained on the images in {source}, which no longer exists. Pass "
                    "the new path of this folder with --data"
                )
            args.data = Path(source)
        args.data = args.data or source or "digits"
        model = ViT.load(path, device=args.device)
        dataset = common.load_data(args.data, model, max_pixels=args.max_pixels)
        common.check_classes(model, dataset, path, DATA_ADVICE)
        recipe = None if progress is None or complete else progress.recipe
        return execute(args, model, dataset, recipe)


def execute(
    args: argparse.Namespace, model: ViT, dataset: data.Dataset, recipe: Recipe | None
) -> int:
    """Train or resume, then report. Without a recipe, the run is complete."""
    resized, out = common.resize_data(dataset, model), args.out
    n, H, W, _ = resized.images.shape
    split = f"{n:,} training images of {H} x {W} pixels"
    if recipe and recipe.validation:
        validation = len(data.split_validation(dataset, recipe.validation)[1])
        n -= validation
        split = f"{n:,} training images of {H} x {W} pixels, {validation:,} validation images"
    count = f"{count_parameters(model.params):,} parameters"
    if recipe and recipe.freeze:
        count += f" ({count_parameters(model.params['head']):,} of them trained)"
    print(f"{count}; {split}, {len(dataset.held_out_images):,} held-out images")
    if recipe and args.device == "cpu":
        memory.check_training(model, recipe, n, args.threads)
    try:
        write_class_names(dataset, out)
        if args.resume and recipe:
            training.resume(out, model, resized, threads=args.threads)
        elif recipe:
            training.train(model, resized, recipe, out, threads=args.threads)
        # Importing Matplotlib would crash if an exception were raised in its C++ modules.
        with handle_signals(handler := SignalHandler()):
            report(model, dataset, resized, out, handler.check, verify=recipe is None)
        handler.check()
    except MemoryError as error:
        if recipe is None or not devices.is_gpu_out_of_memory(error):
            raise
        raise RuntimeError(memory.explain_gpu_memory(model, recipe, args.resume)) from None
    return 0


@contextlib.contextmanager
def explain_interruptions(args: argparse.Namespace) -> Iterator[None]:
    """Add to an interruption inside the block what the run has saved, and how to resume it."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        number = getattr(interrupt, "number", signal.SIGINT)
        raise Interrupted(number, describe_interruption(args)) from None


def describe_interruption(args: argparse.Namespace) -> str:
    """Return a message: what an interrupted run has saved, and how to resume it."""
    command = f"python -m minivit train --resume --out {shlex.quote(str(args.out))}"
    progress = training.read_progress(args.out)
    if progress and not progress.complete:
        saved = f"epoch {progress.epoch} of {progress.recipe.epochs}"
        if progress.batches:
            saved += f" and {progress.batches} steps of the next epoch"
    elif not missing_files(args.out):
        return f"interrupted: the run in {args.out} is complete"
    elif (args.out / CHECKPOINT).is_file():
        saved = "the trained model, but the figures are missing"
        command += f" --data {shlex.quote(options.format_value('data', args.data or 'digits'))}"
    else:
        return ""  # there is no checkpoint
    for name in ("device", "precision", "threads", "max_pixels"):
        if (value := getattr(args, name)) not in (None, "cpu", data.MAX_PIXELS):
            command += f" {option_name(name)} {value}"
    return f"interrupted: {args.out / CHECKPOINT} contains {saved}. Continue with `{command}`"
