"""`attention`: where a model looks, or what it has learned, drawn."""

import argparse

import numpy as np

from .. import analysis, data
from ..api import ViT
from ..layers import softmax
from .arguments import (
    dataset_for,
    fail,
    labels_of,
    load,
    must_fit,
    read_images,
    reading,
    takes_photographs,
)

OF_FILES = ("labels", "short_side", "invert")  # options that are of image files


def attention(args: argparse.Namespace) -> int:
    """Draw where a model looks, or what it has learned."""
    if not args.out.parent.is_dir():
        return fail(f"{args.out}: there is no folder {args.out.parent}")
    model = load(args.weights, device=args.device, **reading(args))
    check_usage(args, model.config.depth)
    kind, layer = args.kind, args.layer or -1
    layer -= layer > 0
    named = args.images or args.data
    if kind in analysis.OF_IMAGES and not named and takes_photographs(model):
        args.images = [data.sample_photograph()]
    without = [f"--{name.replace('_', '-')}" for name in OF_FILES if getattr(args, name)]
    if without and not args.images:
        args.usage_error(f"{', '.join(without)}: of image files, and there are none")
    if args.images or kind not in analysis.OF_IMAGES:
        images = read_images(model, args) if args.images else None
        analysis.draw(model, kind, args.out, images, titles_of(model, images, args), layer)
    else:
        dataset = dataset_for(model, args)
        must_fit(model, dataset, args.weights)
        analysis.draw_held_out(model, dataset, args.out, kind, layer)
        fitted = isinstance(
            dataset.held_out_images, data.ResizedImages
        )  # large ones: it would take long
        if dataset.held_out_boxes is not None and kind in analysis.OF_A_LAYER and not fitted:
            report_boxes(model, dataset)
    print(args.out)
    return 0


def check_usage(args: argparse.Namespace, depth: int) -> None:
    """Refuse what does not go together, and a layer that a model of this depth does not have."""
    kind, layer = args.kind, args.layer
    if args.images and args.data:
        args.usage_error("--data is of held-out images: it goes with no image files")
    if (args.images or args.data) and kind not in analysis.OF_IMAGES:
        args.usage_error(f"--kind {kind} is of the model alone: it takes no images")
    if layer is not None and kind not in analysis.OF_A_LAYER:
        args.usage_error(f"--kind {kind} is of the whole model: it takes no --layer")
    if layer is not None and not 1 <= abs(layer) <= depth:
        args.usage_error(f"--layer goes from 1 to {depth}, or -1 to -{depth}; it is {layer}")


def report_boxes(model: ViT, dataset: data.Dataset) -> None:
    """How much of the maps lies on the digits, over all held-out images."""
    images = dataset.held_out_images
    shares = analysis.localisation_scores(model, images, dataset.held_out_boxes)
    chance = shares.pop("chance")
    for name, share in shares.items():
        print(
            f"{name}: {share:.1%} of the mass in the digit's box, which is {chance:.1%} of the "
            f"image (mean of {len(images):,} held-out images)"
        )


def titles_of(model: ViT, images: np.ndarray | None, args: argparse.Namespace) -> list[str]:
    """The names of the image files and, if classes have names, what the model takes them for."""
    titles = [path.name.encode(errors="backslashreplace").decode() for path in args.images]
    names = labels_of(model, args)
    if names is None:
        return titles
    probabilities, _ = softmax(model(images))
    best = [f"{names[p.argmax()]} ({p.max():.1%})" for p in probabilities]
    return [f"{title}\n{answer}" for title, answer in zip(titles, best, strict=True)]
