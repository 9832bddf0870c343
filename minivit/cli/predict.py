"""Print the most likely classes of image files.

examples:
  python -m minivit predict digit.png
  python -m minivit predict --invert --top 1 scan1.png scan2.png
  python -m minivit predict photo.jpg --weights vit.npz --labels imagenet.txt --top 5
"""

import argparse

import numpy as np

from .. import data
from ..layers import softmax
from ..terminal import escape
from . import common, options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `predict`."""
    text = "image files (default: the bundled sample photograph if the model takes photographs)"
    parser.add_argument("images", nargs="*", type=options.parse_path, metavar="IMAGE", help=text)
    top = (options.positive, "N", "number of classes to print (default: 3)", 3)
    options.add_options(parser, {"top": top} | options.MAX_PIXELS)
    options.add_weights(parser, None, "runs/digits/model.npz")
    options.add_options(parser.add_argument_group("image files"), options.IMAGE_FILES)


def run(args: argparse.Namespace) -> int:
    """Print the most likely classes of each image file."""
    model = common.load_model(args)
    common.check_classifier(model, args.weights)
    if not args.images and not common.takes_photographs(model):
        raise options.UsageError("image files are required: the model takes no photographs")
    args.images = args.images or [data.sample_photograph()]
    names = common.read_class_names(model, args)
    probabilities, _ = softmax(model(common.read_images(model, args)))
    for path, p in zip(args.images, probabilities, strict=True):
        best = np.argsort(-p)[: args.top]
        if names is None:
            print(f"{escape(path)}: " + ", ".join(f"{c} ({p[c]:.1%})" for c in best))
        else:
            print("\n".join([escape(path), *(f"{p[c]:8.1%}  {names[c]}" for c in best)]))
    return 0
