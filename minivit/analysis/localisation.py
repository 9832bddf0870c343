"""Is what a map points at the thing itself? The share of its mass inside a box."""

import numpy as np

from ..api import ViT
from ..arrays import Array, array_module
from .attention import attention_rollout, patch_maps, safe_divide
from .relevance import attention_gradients, gradient_weighted_rollout, gradient_weighted_sum

BATCH = 250  # images whose attention and gradients are in memory at once


def fraction_in_box(maps: Array, boxes: Array, patch_size: int) -> Array:
    """The share of each map's mass that lies inside its box.

    maps (B, gh, gw), none negative; boxes (B, 4): top, left, bottom, right in pixels, the last
    two not inside; patch side P  ->  (B,) from 0 to 1.

    A patch counts by the share of its area inside the box. A map without any mass gives 0.
    """
    gh, gw = maps.shape[1:]
    edges = boxes.astype(maps.dtype) / patch_size  # (B, 4) in patches
    rows = overlap(edges[:, 0], edges[:, 2], gh)  # (B, gh)
    columns = overlap(edges[:, 1], edges[:, 3], gw)  # (B, gw)
    inside = (maps * rows[:, :, None] * columns[:, None, :]).sum((1, 2))
    return safe_divide(inside, maps.sum((1, 2)))


def overlap(start: Array, stop: Array, cells: int) -> Array:
    """How much of each of the cells 0..1, 1..2, ... lies between start and stop, (B,) each.

    ->  (B, cells) from 0 to 1
    """
    xp = array_module(start)
    left = xp.arange(cells, dtype=start.dtype)  # (cells,)
    shared = xp.minimum(stop[:, None], left + 1) - xp.maximum(start[:, None], left)
    return shared.clip(0, None)


def box_area_fraction(boxes: Array, image_size: tuple[int, int]) -> Array:
    """The share of an image (H, W) that its box takes: what a map without any idea has inside.

    boxes (B, 4): top, left, bottom, right in pixels  ->  (B,) from 0 to 1
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(array_module(boxes).float64)
    H, W = image_size
    return sides[:, 0] * sides[:, 1] / (H * W)


def localisation_scores(model: ViT, images: Array, boxes: Array) -> dict[str, float]:
    """How well the maps of a model point at the boxes: the means over all images.

    images (B, H, W, C), boxes (B, 4) in pixels  ->  the mean `fraction_in_box` of "rollout", of
    "gradient-weighted" and of "gradient sum", both for the likeliest class; and "chance", the
    mean `box_area_fraction`.
    """
    config = model.config
    parts = []
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        A, dA = attention_gradients(model, images[part])
        flows = [
            attention_rollout(A),
            gradient_weighted_rollout(A, dA),
            gradient_weighted_sum(A, dA),
        ]
        maps = [patch_maps(flow, config.grid) for flow in flows]
        parts.append([fraction_in_box(one, boxes[part], config.stride) for one in maps])
    found = np.concatenate(parts, axis=1).mean(1)  # (3,)
    names = ["rollout", "gradient-weighted", "gradient sum"]
    shares = {name: float(share) for name, share in zip(names, found, strict=True)}
    return shares | {"chance": float(box_area_fraction(boxes, config.image_size).mean())}
