"""Formulas for the memory of training."""

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .. import arrays
from ..api import ViT
from ..models import ViTConfig
from ..parallel import count_threads
from .formulas import layer_costs, total_cost

STATE_VECTORS = {"adamw": 2, "sgd": 1}  # each as long as the vector of parameters


class Memory(NamedTuple):
    """The memory of training, in bytes. Three fields describe the shards."""

    parameters: int
    gradients: int
    optimiser_state: int
    retained: int  # for the backward pass, if the batch is not split
    temporary: int  # arrays of one pullback, if the batch is not split
    shards: int
    shard_size: int  # images in the largest shard
    parallel_shards: int
    step: int  # upper bound of the peak, without parameters and optimiser state

    @property
    def training(self) -> int:
        """Upper bound of the peak, without the images and the EMA of the parameters."""
        return self.parameters + self.optimiser_state + self.step


def memory(
    config: ViTConfig,
    batch_size: int,
    dtype: str = "float32",
    *,
    optimiser: str = "adamw",
    shards: int | None = None,
    threads: int | None = None,
) -> Memory:
    """Return the memory of training. The batch is split as in `loss_and_gradients`.

    `optimiser` is "adamw" or "sgd"; `shards` and `threads` are those of `StepOptions`, 1 on a GPU.
    f = min(S, threads) of the S shards are processed in parallel. Each has retained arrays,
    temporary arrays and gradients. While the gradients of a shard are added to the sum of the
    previous ones, up to min(f, S - 1) other shards are in progress. With one thread, the gradients
    of a shard are freed before the next shard starts:

        shard = retained + temporary + gradients
        step  = max(f shard, min(f, S - 1) shard + min(f, 2) gradients, 2 gradients)

    This is an upper bound, because the shards may reach their peaks at different times.

    >>> m = memory(ViTConfig.named("ViT-B/16"), batch_size=8, shards=2, threads=2)
    >>> m.shard_size, m.parameters  # 4 bytes per parameter
    (4, 346270624)
    """
    threads = count_threads(threads)
    # The number of shards depends only on the configuration, the dtype and the device.
    model = ViT(config, {"norm": {"scale": np.empty(0, dtype)}})
    S = min(shards or model.choose_shard_count(batch_size, threads), batch_size)
    f, shard_size = min(S, threads), -(-batch_size // S)
    batch, part = (total_cost(layer_costs(config, n, dtype)) for n in (batch_size, shard_size))
    gradients = batch.parameters * np.dtype(dtype).itemsize
    shard = part.retained + temporary_bytes(config, shard_size, dtype) + gradients
    return Memory(
        parameters=gradients, gradients=gradients,
        optimiser_state=STATE_VECTORS[optimiser] * gradients,
        retained=batch.retained, temporary=temporary_bytes(config, batch_size, dtype),
        shards=S, shard_size=shard_size, parallel_shards=f,
        step=max(f * shard, min(f, S - 1) * shard + min(f, 2) * gradients, 2 * gradients),
    )  # fmt: skip


def temporary_bytes(config: ViTConfig, B: int, dtype: str) -> int:
    """Return the largest size in bytes of the temporary arrays of one pullback.

    Attention: dA, dscores, a product of their size, dqkv, and five gradients of the tokens. MLP:
    the gradients of the hidden layer before and after the GELU, two gradients of the tokens, and
    two blocks in the GELU. Stem: about six feature maps of the root.
    """
    T, D, M, h = config.tokens, config.width, config.mlp_width, config.heads
    H, W = config.image_size
    F = 0 if config.stem is None else config.stem_width
    attention = 3 * B * h * T * T + 8 * B * T * D
    mlp = 2 * B * T * (M + D) + 2 * min(B * T * M, arrays.BLOCK_SIZE)
    stem = 6 * B * -(-H // 2) * -(-W // 2) * F
    return max(attention, mlp, stem) * np.dtype(dtype).itemsize


def max_batch_size(available: int, limit: int, required: Callable[[int], int]) -> int:
    """Return the largest batch size up to `limit` that fits in `available` bytes, or 0.

    required(batch_size) returns the bytes for a batch. It must be an increasing function.
    """
    sizes = range(1, min(limit, available) + 1)  # an image needs at least one byte
    return bisect_right(sizes, available, key=required)
