"""Plot attention maps of a model, or its attention distances, position embeddings or filters.

examples:
  python -m minivit attention --kind distance --out distance.png
  python -m minivit attention --kind gradients --layer 1
  python -m minivit attention --weights runs/digits/model.npz digit.png
  python -m minivit attention photo.jpg --weights vit.npz --labels imagenet.txt
  python -m minivit attention --data digits --weights runs/digits-tuned/model.npz
"""

import argparse
from pathlib import Path

import numpy as np

from .. import analysis, data
from ..api import ViT
from ..layers import softmax
from ..terminal import escape
from . import common, options
from .memory import check_attention
from .options import UsageError

OPTIONS = {
    "data": options.DATA,
    "kind": (tuple(analysis.KINDS), "KIND", "one of the figures above (default: maps)", "maps"),
    "layer": (options.integer, "L", "layer, counted from 1, or from the last if negative "
        "(default: -1)", None),
    "out": (options.parse_path, "FILE", "PNG file to write (default: attention.png)",
        Path("attention.png")),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `attention`."""
    kinds = "\n".join(f"  {kind:12}{text}" for kind, text in analysis.KINDS.items())
    parser.description = (
        f"{parser.description}\n\nfigures:\n{kinds}\n\nIf the images have bounding boxes (--data "
        "scattered, not resized), the command also prints,\nfor each of three attention maps, the "
        "fraction that lies inside the boxes."
    )
    text = "image files (default: held-out images of --data, or the bundled sample photograph if "
    text += "the model takes photographs)"
    parser.add_argument("images", nargs="*", type=options.parse_path, metavar="IMAGE", help=text)
    options.add_options(parser, OPTIONS | options.MAX_PIXELS)
    options.add_weights(parser, data.SCATTERED_MODEL, "bundled, trained on scattered digits")
    options.add_options(parser.add_argument_group("image files"), options.IMAGE_FILES)


def run(args: argparse.Namespace) -> int:
    """Write a figure."""
    if not (folder := args.out.parent).is_dir():
        raise FileNotFoundError(f"cannot write {args.out}: the folder {folder} does not exist")
    model = common.load_model(args)
    check_usage(args, model.config.depth)
    check_attention(model.config, model.config.depth * max(1, len(args.images)))
    takes_images = args.kind in analysis.IMAGE_KINDS
    if takes_images and not (args.images or args.data) and common.takes_photographs(model):
        args.images = [data.sample_photograph()]
    unused = [options.option_name(name) for name in options.IMAGE_FILES if getattr(args, name)]
    if unused and not args.images:
        raise UsageError(f"{', '.join(unused)} can only be used with image files")
    layer = -1 if args.layer is None else args.layer - (args.layer > 0)  # counted from 0
    if args.images:
        images = common.read_images(model, args)
        titles = read_titles(model, images, args)
        figure = analysis.plot_model(model, args.kind, images, titles, layer)
    elif takes_images:
        dataset = common.load_held_out(model, args)
        figure = analysis.plot_held_out(model, dataset, args.kind, layer)
        if args.kind in analysis.LAYER_KINDS:
            print_localisation(model, dataset)
    else:
        figure = analysis.plot_model(model, args.kind)
    analysis.save_figure(figure, args.out)
    print(args.out)
    return 0


def check_usage(args: argparse.Namespace, depth: int) -> None:
    """Raise UsageError if options contradict each other or the layer does not exist."""
    kind, layer = args.kind, args.layer
    if args.images and args.data:
        raise UsageError("image files and --data cannot be combined")
    if (args.images or args.data) and kind not in analysis.IMAGE_KINDS:
        raise UsageError(f"images and --data do not apply to --kind {kind}")
    if layer is not None and kind not in analysis.LAYER_KINDS:
        raise UsageError(f"--layer does not apply to --kind {kind}")
    if layer is not None and not 1 <= abs(layer) <= depth:
        raise UsageError(f"--layer must be 1 to {depth} or -1 to -{depth}, not {layer}")


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


def read_titles(model: ViT, images: np.ndarray, args: argparse.Namespace) -> list[str]:
    """Return the file names and, if the class names are known, the predictions."""
    titles = [escape(path.name) for path in args.images]
    names = common.read_class_names(model, args)
    if names is None:
        return titles
    probabilities, _ = softmax(model(images))
    pairs = zip(titles, probabilities, strict=True)
    return [f"{title}\n{names[p.argmax()]} ({p.max():.1%})" for title, p in pairs]
