"""`predict`: the likeliest classes of image files."""

import argparse

import numpy as np

from .. import data
from ..layers import softmax
from .arguments import labels_of, load, must_classify, read_images, reading, takes_photographs


def predict(args: argparse.Namespace) -> int:
    """Print the likeliest classes of each image file."""
    model = load(args.weights, device=args.device, **reading(args))
    must_classify(model, args.weights)
    if not args.images and not takes_photographs(model):
        args.usage_error("name the image files")
    args.images = args.images or [data.sample_photograph()]
    names = labels_of(model, args)
    probabilities, _ = softmax(model(read_images(model, args)))
    for path, p in zip(args.images, probabilities, strict=True):
        best = np.argsort(-p)[: args.top]
        if names is None:
            print(f"{path}: " + ", ".join(f"{c} ({p[c]:.1%})" for c in best))
        else:
            print("\n".join([str(path), *(f"{p[c]:8.1%}  {names[c]}" for c in best)]))
    return 0
