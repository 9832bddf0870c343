"""One training step: the loss of a batch and its gradients, computed in parallel shards."""

import contextlib
import dataclasses
import operator
from typing import Any, NamedTuple

import numpy as np

from ..api import ViT
from ..arrays import Array, Pullback, array_module, as_array, device_of, to_host
from ..layers import cross_entropy, linear
from ..models import forward_features, vit
from ..parallel import batch_slices, map_shards
from ..tree import ParameterVector, Tree, map_tree, pack

Seed = tuple[int, ...] | None  # None deactivates dropout


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """Options of a training step. `Recipe.step_options` creates them from a recipe.

    Parameters
    ----------
    label_smoothing : float
        Probability spread evenly over all classes, 0 to 1.
    freeze : bool
        Train only the head. The gradients are {"head": ...}, and dropout is inactive.
    grad_accumulation : int
        Number of micro-batches per batch, processed one after the other to save memory.
    shards : int, optional
        Number of shards of a micro-batch, which are processed in parallel. The default depends on
        the CPU cache and the number of threads. The last bits of the gradients depend on it.
    threads : int, optional
        Number of CPU threads. By default all cores.

    Raises
    ------
    ValueError
        If the number of micro-batches, shards or threads is below 1.

    Examples
    --------
    >>> StepOptions(shards=3)
    StepOptions(label_smoothing=0.0, freeze=False, grad_accumulation=1, shards=3, threads=None)
    """

    label_smoothing: float = 0.0
    freeze: bool = False
    grad_accumulation: int = 1
    shards: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("grad_accumulation", "shards", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!s:.40}")


def loss_and_gradients(
    model: ViT,
    images: Array,
    labels: Array,
    options: StepOptions = StepOptions(),
    *,
    seed: Seed = None,
) -> tuple[float, Tree]:
    """Compute the mean cross-entropy of a batch and its gradient for every parameter.

    Parameters
    ----------
    model : ViT
    images : (B, H, W, C) array of floats
    labels : (B,) array of integers, or (B, K) array of soft targets
    options : StepOptions
    seed : tuple of int, optional
        Activates dropout. Its last entry counts the steps: shard s of micro-batch i draws from
        `default_rng([..., grad_accumulation * step + i, s])`.

    Returns
    -------
    loss : float
        In nats.
    gradients : tree
        The same structure as `model.params`. The leaves are views of one vector.

    Raises
    ------
    TypeError, ValueError
        For images or labels that do not fit the model.

    Examples
    --------
    >>> model = ViT.create("ViT-Ti/4", image_size=32, classes=10)
    >>> images, labels = np.zeros((2, 32, 32, 3), dtype=np.float32), np.array([3, 7])
    >>> loss, gradients = loss_and_gradients(model, images, labels)
    >>> round(loss, 4), gradients["head"]["kernel"].shape  # ln(10), because the head is zero
    (2.3026, (192, 10))
    """
    step = batch_gradients(model, images, labels, options, seed=seed)
    return float(to_host(step.loss)), step.gradients.tree


class Step(NamedTuple):
    """The result of a forward and backward pass of a batch.

    loss: the mean cross-entropy. correct: the number of images whose largest logit is that of the
    (largest) target. On a GPU, both are arrays without axes; reading them waits for the step.
    """

    loss: Any
    correct: Any
    gradients: ParameterVector


def batch_gradients(
    model: ViT, images: Array, labels: Array, options: StepOptions, *, seed: Seed = None
) -> Step:
    """Compute the loss and the packed gradients of a batch, as `loss_and_gradients` does."""
    check_has_head(model)
    images = model.prepare_images(images)
    B = len(images)
    labels = as_array(labels)
    if not hasattr(labels, "dtype"):
        raise TypeError(f"labels must be an array of class numbers, not {type(labels).__name__}")
    if len(labels) != B:
        raise ValueError(f"{B} images, but {len(labels)} labels")
    parts = enumerate(batch_slices(B, min(options.grad_accumulation, B)))
    results = (micro_batch_gradients(model, images, labels, *p, options, seed) for p in parts)
    loss, correct, total = next(results)
    for part_loss, part_correct, gradients in results:
        loss, correct = loss + part_loss, correct + part_correct
        total.vector[:] += gradients.vector
        del gradients  # before the next micro-batch
    return Step(loss, correct, total)


def micro_batch_gradients(
    model: ViT, images: Array, labels: Array, i: int, part: slice, options: StepOptions, seed: Seed
) -> Step:
    """Compute the contribution of micro-batch i to the results of the batch.

    The shards run in parallel. Their gradients are added in the order of the shards, so the same
    number of shards gives the same bits.
    """
    B = len(images)
    images, labels = images[part], labels[part]

    def shard_gradients(numbered: tuple[int, slice]) -> tuple[Array, Array, Tree]:
        s, shard = numbered
        generator = None
        if seed is not None:
            *prefix, step = seed
            generator = np.random.default_rng([*prefix, options.grad_accumulation * step + i, s])
        logits, model_back = forward_pass(model, images[shard], options.freeze, generator)
        loss, loss_back = cross_entropy(logits, labels[shard], options.label_smoothing)
        weight = len(logits) / B  # every image of the batch has the same weight
        _, dparams = model_back(loss_back(weight))
        targets = array_module(logits).asarray(labels[shard])  # (b,) or (b, K)
        targets = targets if targets.ndim == 1 else targets.argmax(-1)
        return loss * weight, (logits.argmax(-1) == targets).sum(), dparams

    threads = 1 if model.device == "gpu" else options.threads
    shards = options.shards or model.choose_shard_count(len(images), options.threads)
    slices = batch_slices(len(images), min(shards, len(images)))
    results = map_shards(shard_gradients, list(enumerate(slices)), threads)
    with contextlib.closing(results):
        loss, correct, tree = next(results)
        total = pack(tree)
        for shard_loss, shard_correct, dparams in results:
            loss, correct = loss + shard_loss, correct + shard_correct
            map_tree(operator.iadd, total.tree, dparams)
            del dparams  # before the next shards run, to save memory
    if device_of(loss) == "gpu":
        return Step(loss, correct, total)
    return Step(float(loss), int(correct), total)


def forward_pass(
    model: ViT, images: Array, freeze: bool, generator: np.random.Generator | None
) -> tuple[Array, Pullback]:
    """Compute the logits and a pullback that returns the gradients of the trained parameters.

    images (B, H, W, C)  ->  logits (B, K)
    With `freeze`, dropout is inactive, and the pullback returns the gradients of the head alone.
    """
    if not freeze:
        return vit(images, model.params, model.config, generator)
    features = forward_features(images, model.params, model.config)  # (B, R)
    logits, head_back = linear(features, **model.params["head"])

    def pullback(dlogits: Array) -> tuple[Array, Tree]:
        dfeatures, dhead = head_back(dlogits)
        return dfeatures, {"head": dhead}

    return logits, pullback


def check_has_head(model: ViT) -> None:
    """Raise ValueError if the model has no classifier."""
    if model.config.classes is None:
        raise ValueError("the model has no classifier: `minivit.training.replace_head` adds one")
