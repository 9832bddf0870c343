"""The fraction of an attention map that lies inside a bounding box."""

import numpy as np

from ..api import ViT
from ..arrays import Array, array_module
from .attention import attention_rollout, patch_maps, safe_divide
from .relevance import attention_gradients, gradient_weighted_rollout, gradient_weighted_sum

BATCH_SIZE = 250  # images per batch, to limit the memory of attention and gradients


def fraction_in_box(maps: Array, boxes: Array, patch_size: int) -> Array:
    """Return the fraction of each map's sum that lies inside its box.

    maps (B, gh, gw), not negative; boxes (B, 4): top, left, bottom, right in pixels, the last two
    exclusive; patch side P  ->  (B,) from 0 to 1
    A patch counts in proportion to the part of its area inside the box. A map of zeros gives 0.
    """
    gh, gw = maps.shape[1:]
    edges = boxes.astype(maps.dtype) / patch_size  # (B, 4) in patches
    rows = overlap(edges[:, 0], edges[:, 2], gh)  # (B, gh)
    columns = overlap(edges[:, 1], edges[:, 3], gw)  # (B, gw)
    inside = (maps * rows[:, :, None] * columns[:, None, :]).sum((1, 2))
    return safe_divide(inside, maps.sum((1, 2)))


def overlap(start: Array, stop: Array, n: int) -> Array:
    """Return the length of [start, stop] in each of [0, 1], ..., [n - 1, n].  (B,)  ->  (B, n)"""
    xp = array_module(start)
    left = xp.arange(n, dtype=start.dtype)  # (n,)
    shared = xp.minimum(stop[:, None], left + 1) - xp.maximum(start[:, None], left)
    return shared.clip(0, None)


def box_area_fraction(boxes: Array, image_size: tuple[int, int]) -> Array:
    """Return the fraction of an image (H, W) that each box covers: the score of a uniform map.

    boxes (B, 4): top, left, bottom, right in pixels  ->  (B,) from 0 to 1
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(array_module(boxes).float64)
    return sides[:, 0] * sides[:, 1] / (image_size[0] * image_size[1])


def localisation_scores(model: ViT, images: Array, boxes: Array) -> dict[str, float]:
    """Compute the mean fraction of a model's maps inside the boxes.

    images (B, H, W, C), boxes (B, 4) in pixels  ->  the mean `fraction_in_box` of "rollout",
    "gradient-weighted" (rollout) and "gradient sum", the last two for the predicted class; and
    "chance", the mean `box_area_fraction`
    """
    config = model.config
    fractions = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        A, dA = attention_gradients(model, images[batch])
        relevance = gradient_weighted_rollout(A, dA), gradient_weighted_sum(A, dA)
        maps = [patch_maps(R, config.grid) for R in (attention_rollout(A), *relevance)]
        fractions.append([fraction_in_box(M, boxes[batch], config.stride) for M in maps])
    means = np.concatenate(fractions, axis=1).mean(1).tolist()  # (3,)
    scores = dict(zip(("rollout", "gradient-weighted", "gradient sum"), means, strict=True))
    return scores | {"chance": float(box_area_fraction(boxes, config.image_size).mean())}
