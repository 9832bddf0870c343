"""Print the most likely classes of image files.

examples:
  python -m minivit predict digit.png
  python -m minivit predict --invert --top 1 scan1.png scan2.png
  python -m minivit predict photo.jpg --weights vit.npz --labels imagenet.txt --top 5
"""

import argparse

from .. import data
from . import common, options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `predict`."""
    text = "image files (default: the bundled sample photograph if the model takes photographs)"
    parser.add_argument("images", nargs="*", type=options.parse_path, metavar="IMAGE", help=text)
    top = (options.positive, "N", "number of classes to print (default: 3)", 3)
    options.add_options(parser, {"top": top})
    options.add_weights(parser, None, "runs/digits/model.npz")
    group = parser.add_argument_group("image files")
    options.add_options(group, options.IMAGE_FILES | options.MAX_PIXELS)


def run(args: argparse.Namespace) -> int:
    """Print the most likely classes of each image file."""
    model = common.load_model(args)
    common.check_classifier(model, args.weights)
    if not args.images and not common.takes_photographs(model):
        raise options.UsageError("image files are required: the model takes no photographs")
    common.read_class_names(model, args)
    args.images = args.images or [data.sample_photograph()]
    common.print_predictions(model, common.read_images(model, args), args, args.top)
    return 0
