"""`attention`: where a model looks, or what it has learned, drawn."""

import argparse

import numpy as np

from .. import analysis, data
from ..layers import softmax
from ..model import ViT
from .arguments import dataset_for, labels_of, load, read_images, reading, takes_photographs


def attention(args: argparse.Namespace) -> int:
    """Draw where a model looks, or what it has learned."""
    model = load(args.weights, **reading(args))
    kind, depth, layer = args.kind, model.config.depth, args.layer or -1
    if args.images and kind not in analysis.OF_IMAGES:
        args.usage_error(f"--kind {kind} is of the model alone: it takes no image files")
    if args.layer is not None and kind not in analysis.OF_A_LAYER:
        args.usage_error(f"--kind {kind} is of the whole model: it takes no --layer")
    if args.layer == 0 or abs(layer) > depth:
        args.usage_error(f"--layer goes from 1 to {depth}, or -1 to -{depth}; it is {args.layer}")
    layer -= layer > 0
    if kind in analysis.OF_IMAGES and not args.images and takes_photographs(model):
        args.images = [data.portrait()]
    if args.labels and not args.images:
        args.usage_error("--labels names the classes of image files, and there are none")
    if args.images or kind not in analysis.OF_IMAGES:
        images = read_images(model, args) if args.images else None
        analysis.draw(model, kind, args.out, images, titles_of(model, images, args), layer)
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


def titles_of(model: ViT, images: np.ndarray | None, args: argparse.Namespace) -> list[str]:
    """The names of the image files and, if classes have names, what the model takes them for."""
    titles, names = [path.name for path in args.images], labels_of(model, args)
    if names is None:
        return titles
    probabilities, _ = softmax(model(images))
    best = [f"{names[p.argmax()]} ({p.max():.1%})" for p in probabilities]
    return [f"{title}\n{answer}" for title, answer in zip(titles, best, strict=True)]
