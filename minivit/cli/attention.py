"""Plot attention maps of a model, or its attention distances, position embeddings or filters.

examples:
  python -m minivit attention photo.jpg --weights vit.npz --target tabby --target "Egyptian cat"
  python -m minivit attention photo.jpg --weights vit.npz --method raw --layer all --out heads.pdf
  python -m minivit attention --method rollout --fusion max --discard 0.9
  python -m minivit attention --kind distance --out distance.svg
  python -m minivit attention --data digits --weights runs/digits-tuned/model.npz
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from .. import analysis, data
from ..analysis.attention import FUSIONS
from ..api import ViT
from ..terminal import escape
from . import common, options
from .memory import check_attention
from .options import UsageError, option_name

FIGURE = {
    "kind": (tuple(analysis.KINDS), "KIND", "one of the figures above (default: maps)", "maps"),
    "layer": (options.parse_layer, "L|all", "layer, counted from 1, or from the last if negative; "
        "all plots one row per layer (default: -1)", None),
    "out": (options.parse_path, "FILE", "file to write; the suffix .png, .svg, .pdf or .jpg "
        "determines the format (default: attention.png)", Path("attention.png")),
}  # fmt: skip
MAPS = {
    "method": (tuple(analysis.METHODS), "METHOD", "one of the methods above (default: rollout, "
        "relevance and raw; relevance with --target; raw with --head)", None),
    "head": (options.integer, "N", "use only this head, counted from 1 (default: all heads)", None),
    "query": (options.parse_patch, "ROW,COL", "plot the attention of this patch, counted from 1 "
        "(default: of the class token)", None),
    "fusion": (FUSIONS, None, "rollout: combination of the heads (default: mean)", None),
    "discard": (options.number, "R", "rollout: fraction of the smallest attention weights of each "
        "layer that are set to zero, at least 0 and below 1 (default: 0)", None),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `attention`."""
    kinds = "\n".join(f"  {kind:12}{text}" for kind, text in analysis.KINDS.items())
    methods = "\n".join(f"  {name:12}{text}" for name, text in analysis.METHODS.items())
    parser.description = (
        f"{parser.description}\n\nfigures:\n{kinds}\n\nmethods for attention maps:\n{methods}\n\n"
        "If the images have bounding boxes (--data scattered, not resized), the command without "
        "options\nfor the maps also prints the fraction of three maps that lies inside the boxes."
    )
    text = "image files (default: held-out images of --data, or the bundled sample photograph if "
    text += "the model takes photographs)"
    parser.add_argument("images", nargs="*", type=options.parse_path, metavar="IMAGE", help=text)
    options.add_options(parser, FIGURE)
    group = parser.add_argument_group("attention maps")
    text = "class whose relevance is plotted, by name or index; can be repeated (default: the "
    text += "predicted class)"
    group.add_argument(
        "--target", action="append", default=[], dest="targets", metavar="NAME|INDEX", help=text
    )
    options.add_options(group, MAPS)
    group = parser.add_argument_group("images")
    options.add_options(group, {"data": options.DATA} | options.MAX_PIXELS | options.IMAGE_FILES)
    options.add_weights(parser, data.SCATTERED_MODEL, "bundled, trained on scattered digits")


def run(args: argparse.Namespace) -> int:
    """Write a figure."""
    if not (folder := args.out.parent).is_dir():
        raise FileNotFoundError(f"cannot write {args.out}: the folder {folder} does not exist")
    try:
        analysis.figure_format(args.out)
    except ValueError as error:
        raise UsageError(f"--out: {error}") from None
    model = common.load_model(args)
    check_usage(args, model)
    check_attention(model.config, model.config.depth * max(1, len(args.images)))
    takes_images = args.kind in analysis.IMAGE_KINDS
    if takes_images and not (args.images or args.data) and common.takes_photographs(model):
        args.images = [data.sample_photograph()]
    unused = [option_name(name) for name in options.IMAGE_FILES if getattr(args, name)]
    if unused and not args.images:
        raise UsageError(f"{', '.join(unused)} can only be used with image files")
    if args.images:
        common.read_class_names(model, args)
        settings = map_settings(model, args)
        images = common.read_images(model, args)
        titles = [escape(path.name) for path in args.images]
        if args.kind in analysis.LAYER_KINDS and model.config.classes:
            titles = predict(model, images, args)
        figure = analysis.plot_model(model, args.kind, images, titles, **settings)
    elif takes_images:
        dataset = common.load_held_out(model, args)
        model.class_names = model.class_names or dataset.classes
        settings = map_settings(model, args)
        figure = analysis.plot_held_out(model, dataset, args.kind, **settings)
        if args.kind == "maps" and settings == {"layer": -1}:
            print_localisation(model, dataset)
    else:
        figure = analysis.plot_model(model, args.kind)
    analysis.save_figure(figure, args.out)
    print(args.out)
    return 0


def check_usage(args: argparse.Namespace, model: ViT) -> None:
    """Raise UsageError if options contradict each other, or a layer or a head does not exist."""
    kind, depth, heads = args.kind, model.config.depth, model.config.heads
    if args.images and args.data:
        raise UsageError("image files and --data cannot be combined")
    if (args.images or args.data) and kind not in analysis.IMAGE_KINDS:
        raise UsageError(f"images and --data do not apply to --kind {kind}")
    if args.layer is not None and kind not in analysis.LAYER_KINDS:
        raise UsageError(f"--layer does not apply to --kind {kind}")
    if args.layer == "all" and kind != "maps":
        raise UsageError("--layer all requires --kind maps")
    used = [option_name(name) for name in MAPS if getattr(args, name) is not None]
    used += ["--target"] * (bool(args.targets) and kind != "gradients")
    if used and kind != "maps":
        raise UsageError(f"{', '.join(used)} cannot be used with --kind {kind}")
    if len(args.targets) > 1 and kind == "gradients":
        raise UsageError("--kind gradients plots a single --target")
    for name in ("fusion", "discard"):
        if getattr(args, name) is not None and args.method not in (None, "rollout"):
            raise UsageError(f"--{name} requires --method rollout")
    if args.layer not in (None, "all") and not 1 <= abs(args.layer) <= depth:
        raise UsageError(f"--layer must be all, 1 to {depth} or -1 to -{depth}, not {args.layer}")
    if args.head is not None and not 1 <= args.head <= heads:
        raise UsageError(f"--head must be 1 to {heads}, not {args.head}")
    if args.discard is not None and not 0 <= args.discard < 1:
        raise UsageError(f"--discard must be at least 0 and below 1, not {args.discard}")


def map_settings(model: ViT, args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `plot_model` that the options set. Indices are counted from 0."""
    if args.kind not in analysis.LAYER_KINDS:
        return {}
    layer = -1 if args.layer is None else args.layer
    settings: dict[str, Any] = {"layer": None}
    if layer != "all":
        settings["layer"] = layer - (layer > 0)
    if args.targets:
        try:
            settings["targets"] = [analysis.find_class(model, name) for name in args.targets]
        except ValueError as error:
            raise UsageError(f"--target: {error}") from None
    if args.method:
        settings["methods"] = [args.method, *["relevance"] * bool(args.targets)]
    if args.head:
        settings["head"] = args.head - 1
    if args.query:
        (row, column), (gh, gw) = args.query, model.config.grid
        if not (1 <= row <= gh and 1 <= column <= gw):
            raise UsageError(f"--query must be a patch from 1,1 to {gh},{gw}, not {row},{column}")
        settings["query"] = row - 1, column - 1
    options = {name: getattr(args, name) for name in ("fusion", "discard")}
    return settings | {name: value for name, value in options.items() if value is not None}


def print_localisation(model: ViT, dataset: data.Dataset) -> None:
    """Print the mean fraction of each attention map inside the boxes, if the data set has boxes."""
    images, boxes = dataset.held_out_images, dataset.held_out_boxes
    if boxes is None or isinstance(images, data.ResizedImages):  # would take minutes
        return
    scores = analysis.localisation_scores(model, images, boxes)
    area = scores.pop("chance")
    for name, score in scores.items():
        print(
            f"{name}: {score:.1%} of the map lies in the bounding box, which covers {area:.1%} of "
            f"the image (mean over {len(images):,} held-out images)"
        )


def predict(model: ViT, images: np.ndarray, args: argparse.Namespace) -> list[str]:
    """Print the predictions. Return the file names with the most likely class as titles."""
    titles = []
    for path, p in zip(args.images, common.print_predictions(model, images, args), strict=True):
        name = analysis.name_class(model, p.argmax())
        titles.append(f"{escape(path.name)}\n{name} ({p.max():.1%})")
    return titles
