"""Which looks mattered? Attention maps weighted by the gradient of a class's logit."""

from collections.abc import Sequence

import numpy as np

from ..api import ViT
from ..arrays import Array, array_module, to_host
from ..parallel import batch_slices, map_shards


def attention_gradients(
    model: ViT, images: Array, classes: Array | Sequence[int] | None = None
) -> tuple[Array, Array]:
    """A of every layer, and how the logit of one class reacts to each of its entries.

    images (B, H, W, C), classes (B,) integers from 0 to K - 1, or None for each image's likeliest
    ->  A and dA, both (L, B, k, T, T) on the host.

    One forward and one backward pass, whose dlogits are one for the class and zero for all others.
    Raises ValueError if the classes are not one for each image, or not among the model's K, and
    what `model.forward` raises for the images.
    """
    images = model.prepare_images(images)
    B, K = len(images), model.config.classes
    chosen = None if classes is None else check_targets(classes, B, K)

    def shard(part: slice) -> Array:
        seen: dict[str, Array] = {}
        logits, pullback = model.forward(images[part], watch=seen.__setitem__)
        which = to_host(logits).argmax(-1) if chosen is None else chosen[part]
        one_hot = np.arange(K) == which[:, None]  # (B, K)
        pullback(array_module(logits).asarray(one_hot, dtype=logits.dtype))
        names = [f"blocks/{i}/attention" for i in range(model.config.depth)]
        return np.stack(
            [
                [to_host(seen[f"{name}/{kind}"]) for name in names]
                for kind in ("probabilities", "dprobabilities")
            ]
        )  # (2, L, B, k, T, T)

    parts = map_shards(shard, batch_slices(B, model.choose_shard_count(B)))
    A, dA = np.concatenate(list(parts), axis=2)
    return A, dA


def check_targets(classes: Array | Sequence[int], B: int, K: int) -> Array:
    """The classes as an array of integers (B,), or a ValueError that says what is wrong."""
    chosen = np.asarray(classes)
    if chosen.shape != (B,) or chosen.dtype.kind not in "iu":
        raise ValueError(f"classes are {B} integers, one for each image, not {classes}")
    if chosen.min() < 0 or chosen.max() >= K:
        raise ValueError(f"classes go from 0 to {K - 1}, not from {chosen.min()} to {chosen.max()}")
    return chosen


def gradient_weighted_rollout(attention: Array, gradients: Array) -> Array:
    """Rollout of the looks that speak for the class: how much each token owes to each other.

    attention and gradients (L, B, k, T, T), of `attention_gradients`  ->  (B, T, T), none negative.

    Ā_l is the mean over the heads of max(A * dA, 0); R starts as I and becomes R + Ā_l R, the
    first layer first. Returned is R - I, without what each token owes to itself for being itself.
    (Chefer, Gur and Wolf, Generic attention-model explainability, 2021, equations 5 and 6)
    """
    xp = array_module(attention)
    identity = xp.eye(attention.shape[-1], dtype=attention.dtype)
    relevance = identity
    for A, dA in zip(attention, gradients, strict=True):  # (B, k, T, T)
        relevance = relevance + positive_relevance(A, dA) @ relevance
    return relevance - identity


def gradient_weighted_sum(attention: Array, gradients: Array) -> Array:
    """The same without the product: Σ_l Ā_l, since dA already knows what follows a layer.

    attention and gradients (L, B, k, T, T)  ->  (B, T, T), none negative. On scattered digits a
    little more of it lies on the digit: `python -m minivit attention` prints both shares.
    """
    total = positive_relevance(attention[0], gradients[0])
    for A, dA in zip(attention[1:], gradients[1:], strict=True):
        total = total + positive_relevance(A, dA)
    return total


def positive_relevance(A: Array, dA: Array) -> Array:
    """Ā: the mean over heads of what raises the logit.  A and dA (B, k, T, T)  ->  (B, T, T)"""
    return (A * dA).clip(0, None).mean(1)
