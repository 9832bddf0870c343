"""One step: the loss of a batch and its gradients, cut over the cores."""

import contextlib

import numpy as np

from ..api import ViT
from ..arrays import Array, Pullback, device_of, to_host
from ..layers import cross_entropy
from ..models import ViTConfig, forward_features, vit
from ..models.vit import head
from ..parallel import batch_slices, map_shards
from ..tree import Tree, flatten, is_kernel, pack


def loss_and_gradients(
    model: ViT,
    images: Array,
    labels: Array,
    *,
    smoothing: float = 0.0,
    seed: tuple[int, ...] | None = None,
    shards: int | None = None,
    threads: int | None = None,
    freeze: bool = False,
) -> tuple[float, Tree]:
    """The batch's mean cross-entropy, in nats, and its gradient by every parameter.

    images (B, H, W, C), labels (B,) integers or (B, K) soft  ->  loss, a tree like model.params

    `seed` turns dropout on: shard s draws from default_rng([*seed, s]). The batch is cut into
    `shards`, mapped over `threads`; by default as the cache and the cores suggest. Sums go in the
    order of the shards: the same number of them, if more than one, the same bits. `freeze` leaves
    all but the head as it is: the tree is {"head": ...}, no gradient goes further, and nothing is
    dropped. Raises ValueError or TypeError for images or labels that do not fit the model.
    """
    loss, tree, _ = packed_gradients(
        model,
        images,
        labels,
        label_smoothing=smoothing,
        seed=seed,
        shards=shards,
        threads=threads,
        freeze=freeze,
    )
    return float(to_host(loss)), tree


def packed_gradients(
    model: ViT,
    images: Array,
    labels: Array,
    *,
    smoothing: float = 0.0,
    seed: tuple[int, ...] | None = None,
    shards: int | None = None,
    threads: int | None = None,
    freeze: bool = False,
    whole: int | None = None,
) -> tuple[float | Array, Tree, Array]:
    """As `loss_and_gradients`, and the vector that all the gradients are views of.

    On a GPU the loss stays there, an array without axes: whoever reads it waits for the step. If
    the images are a piece of a batch, `whole` is the size of that batch: each image counts
    1/whole, and the pieces' losses and gradients add up to those of the batch.
    """
    check_has_head(model)
    images = model.prepare(images)
    B = len(images)
    if not hasattr(labels, "dtype"):
        raise TypeError(f"labels are an array of class numbers, not a {type(labels).__name__}")
    if shards is not None and shards < 1:
        raise ValueError(f"shards must be at least 1, not {shards}")
    if len(labels) != B:
        raise ValueError(f"{B} images, but {len(labels)} labels")

    forward = head_alone if freeze else vit

    def of_shard(numbered: tuple[int, slice]) -> tuple[Array, Tree]:
        s, part = numbered
        generator = None if seed is None else np.random.default_rng([*seed, s])
        logits, model_back = forward(images[part], model.params, model.config, generator)
        loss, loss_back = cross_entropy(logits, labels[part], smoothing)
        share = len(logits) / (whole or B)  # each counts alike, in any shard
        _, dparams = model_back(loss_back(share))
        return loss * share, dparams

    parts = list(enumerate(batch_slices(B, min(shards or model.shard_count(B, threads), B))))
    threads = 1 if model.device == "gpu" else threads  # it does not need ours
    with contextlib.closing(map_shards(of_shard, parts, threads)) as results:
        loss, tree = next(results)
        vector, _ = pack(tree, first=is_kernel)
        total = flatten(tree)
        for shard_loss, dparams in results:
            loss = loss + shard_loss
            for name, gradient in flatten(dparams).items():
                total[name] += gradient
    return loss if device_of(loss) == "gpu" else float(loss), tree, vector


def head_alone(
    images: Array, params: Tree, config: ViTConfig, generator: np.random.Generator | None = None
) -> tuple[Array, Pullback]:
    """The logits of a frozen body's features, with a pullback that goes no further than these.

    images (B, H, W, C)  ->  logits (B, K); the pullback gives (dfeatures, {"head": ...}). There is
    no dropout: a body that does not learn is used as in evaluation.
    """
    features = forward_features(images, params, config)  # (B, R), nothing is kept
    return head(features, {"head": params["head"]})


def check_has_head(model: ViT) -> None:
    """Raise ValueError for a model without a classifier: it has features, but no logits."""
    if model.config.classes is None:
        raise ValueError(
            "the model has no classifier: `minivit.training.for_fine_tuning` puts one on it"
        )
