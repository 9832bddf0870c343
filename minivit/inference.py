"""Apply a model to a batch in parts: shards on all CPU cores, or smaller batches on a GPU."""

from collections.abc import Callable, Sequence

import numpy as np

from .arrays import Array, device_of, to_host
from .models import ViTConfig, infer
from .parallel import batch_slices, choose_shard_count, map_parts, map_shards
from .tree import Tree

CACHE_BYTES = 3 << 20  # maximum size of the largest array of a shard
GPU_BATCH_SIZE = 256  # images per call in inference on a GPU
MIN_ROWS = 800  # tokens per shard in inference, because BLAS repacks the kernels for each product


def images_in_cache(config: ViTConfig, itemsize: int) -> int:
    """Return the number of images such that no array of the encoder exceeds CACHE_BYTES."""
    c = config
    widest = max(c.mlp_width, 3 * c.width, c.heads * c.tokens)  # MLP, q k v, scores
    return max(1, CACHE_BYTES // (c.tokens * widest * itemsize))


def map_images(
    function: Callable[[Array], Array], images: Array, config: ViTConfig, axis: int = 0
) -> Array:
    """Apply a function to parts of a batch, and concatenate the results on the host.

    images (B, H, W, C), on the device of the model
    """
    if device_of(images) == "gpu":
        parts = map_parts(lambda part: to_host(function(part)), images, GPU_BATCH_SIZE)
    else:
        size = max(images_in_cache(config, images.itemsize), MIN_ROWS // config.tokens)
        shards = batch_slices(len(images), choose_shard_count(len(images), size))
        parts = map_shards(function, [images[shard] for shard in shards])
    return np.concatenate(list(parts), axis=axis)


def collect(images: Array, params: Tree, config: ViTConfig, names: Sequence[str]) -> Array:
    """Return the arrays that `infer` passes to `watch` with these names.  ->  (len(names), B, ...)

    All must have the same shape. They are copied to the host.
    """
    arrays: dict[str, Array] = {}

    def watch(name: str, array: Array) -> None:
        if name in names:
            arrays[name] = to_host(array)

    infer(images, params, config, watch)
    return np.stack([arrays[name] for name in names])
