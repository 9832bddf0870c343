"""Attention weighted by the gradient of a class's logit."""

from collections.abc import Sequence

import numpy as np

from ..api import ViT
from ..arrays import Array, array_module, to_host
from ..parallel import batch_slices, map_shards


def attention_gradients(
    model: ViT, images: Array, classes: Array | Sequence[int] | None = None
) -> tuple[Array, Array]:
    """Compute the attention of every layer and the gradient of one logit with respect to it.

    images (B, H, W, C), classes (B,) integers  ->  A and dA, both (L, B, h, T, T) on the host
    The logit is that of the given class of each image, by default of the predicted class. The cost
    is one forward and one backward pass. Raises ValueError if the model has no classifier, if
    `classes` is not one valid class per image, or if `model.forward` rejects the images.
    """
    images = model.prepare_images(images)
    B, K = len(images), model.config.classes
    if K is None:
        raise ValueError("the model has no classifier, so there is no logit to differentiate")
    targets = None if classes is None else np.asarray(classes)
    if targets is not None:
        integers = targets.shape == (B,) and targets.dtype.kind in "iu"
        if not integers or targets.min() < 0 or targets.max() >= K:
            raise ValueError(f"classes must be {B} integers from 0 to {K - 1}, not {classes}")

    def differentiate(shard: slice) -> Array:
        arrays: dict[str, Array] = {}
        logits, pullback = model.forward(images[shard], watch=arrays.__setitem__)
        predicted = to_host(logits).argmax(-1)
        one_hot = np.arange(K) == (predicted if targets is None else targets[shard])[:, None]
        pullback(array_module(logits).asarray(one_hot, dtype=logits.dtype))
        blocks, names = range(model.config.depth), ("probabilities", "dprobabilities")
        watched = [[arrays[f"blocks/{i}/attention/{name}"] for i in blocks] for name in names]
        return np.stack([list(map(to_host, layers)) for layers in watched])

    shards = map_shards(differentiate, batch_slices(B, model.choose_shard_count(B)))
    A, dA = np.concatenate(list(shards), axis=2)  # (2, L, B, h, T, T)
    return A, dA


def gradient_weighted_rollout(attention: Array, gradients: Array) -> Array:
    """Compute a rollout of the attention that raises the logit.

    attention and gradients (L, B, h, T, T), from `attention_gradients`  ->  (B, T, T), not negative
    Ā_l is the mean over the heads of max(A ⊙ dA, 0). R starts as I, and each layer, first to last,
    replaces it by R + Ā_l R. The result is R - I, the relevance of each token to each other.
    (Chefer, Gur and Wolf, Generic attention-model explainability, 2021, equations 5 and 6)
    """
    xp = array_module(attention)
    identity = xp.eye(attention.shape[-1], dtype=attention.dtype)
    relevance = identity
    for A_bar in positive_relevance(attention, gradients):  # (B, T, T), first layer first
        relevance = relevance + A_bar @ relevance
    return relevance - identity


def gradient_weighted_sum(attention: Array, gradients: Array) -> Array:
    """Sum the attention that raises the logit over the layers:  Σ_l Ā_l.

    attention and gradients (L, B, h, T, T), from `attention_gradients`  ->  (B, T, T), not negative
    `gradient_weighted_rollout` defines Ā_l. dA includes the effect of all later layers already.
    """
    return positive_relevance(attention, gradients).sum(0)


def positive_relevance(attention: Array, gradients: Array) -> Array:
    """Return Ā, the mean over the heads of max(A ⊙ dA, 0).  (L, B, h, T, T)  ->  (L, B, T, T)"""
    return (attention * gradients).clip(0, None).mean(2)
