"""Print the parameters, FLOP and memory of each layer of a model.

examples:
  python -m minivit cost ViT-Ti/4 --image-size 32 --classes 10 --batch-size 64
  python -m minivit cost R50+ViT-B/16 --batch-size 1 --csv cost.csv
  python -m minivit cost ViT-B/16 --depth 6 --width 192 --heads 3 --mlp-width 768
"""

import argparse
from functools import partial

from .. import cost
from ..models import ViTConfig
from ..training import OPTIMISERS
from . import options

DTYPES = ("float32", "float64", "float16")
NO_EFFECT = ("norm_eps", "position_std", "preprocessing")  # fields that do not affect the cost
MODEL = {name: option for name, option in options.FIELDS.items() if name not in NO_EFFECT}
OUTPUT = {
    "batch_size": (options.positive, "N", "images per step (default: 64)", 64),
    "dtype": (DTYPES, None, "dtype of all arrays (default: float32)", "float32"),
    "csv": (options.parse_path, "FILE", "also write the table to this CSV file, with exact values "
        "(default: no file)", None),
}  # fmt: skip
STEP = {
    "optimiser": (tuple(OPTIMISERS), None, "optimiser (default: adamw)", "adamw"),
    "shards": options.SHARDS,
    "threads": options.THREADS,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cost`."""
    text = "model: ViT-{Ti,S,B,L,H}/PATCH, a hybrid such as R50+ViT-B/16, or timm's name of one of "
    text += "them (default: ViT-B/16)"
    parser.add_argument("model", nargs="?", default="ViT-B/16", metavar="NAME", help=text)
    options.add_options(parser, OUTPUT)
    text = "The defaults are those of NAME, for images of 224 x 224 x 3 and 1,000 classes."
    options.add_options(parser.add_argument_group("model", text), MODEL)
    group = parser.add_argument_group("training step")
    options.add_options(group, STEP)
    text = "device; on a GPU, a batch is not split into shards (default: cpu)"
    parse = partial(options.parse_choice, choices=("cpu", "gpu"))
    group.add_argument("--device", dest="target", type=parse, metavar="{cpu,gpu}", help=text)


def run(args: argparse.Namespace) -> int:
    """Print the cost of each layer, of one image and of a training step."""
    try:
        config = ViTConfig.named(args.model, **options.parsed_fields(args, ViTConfig))
    except ValueError as error:
        raise options.to_usage_error(error) from None
    B, gpu = args.batch_size, args.target == "gpu"
    shards, threads = getattr(args, "shards", 1 if gpu else None), 1 if gpu else args.threads
    costs = cost.layer_costs(config, B, args.dtype)
    memory = cost.memory(
        config, B, args.dtype, optimiser=args.optimiser, shards=shards, threads=threads
    )
    (H, W), total = config.image_size, cost.total_cost(costs)
    head = f"{config.classes:,} classes" if config.classes else "no classifier"
    images = f"{B:,} images of {H} x {W} x {config.channels}"
    print(f"{args.model}, {head}, {args.dtype}; {images}, {config.tokens:,} tokens each\n")
    print(cost.LEGEND, cost.format_table(costs), sep="\n\n", end="\n\n")
    flop = cost.format_quantity(total.forward / B, "FLOP")
    mac = cost.format_quantity(total.forward / B / 2, "MAC")
    step = cost.format_quantity(total.forward + total.backward, "FLOP")
    print(f"forward pass of one image: {flop} ({mac}); step of the batch: {step}\n")
    print(cost.format_memory(memory, args.dtype, args.optimiser))
    if args.csv:
        cost.write_csv(args.csv, costs)
    return 0
