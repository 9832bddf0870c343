"""Where a training's memory goes, by formula, and how much of it this machine has left."""

import contextlib
import os
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import arrays
from ..api import ViT
from ..models import ViTConfig
from ..models.initialise import parameter_specs
from ..parallel import cpu_count
from ..tree import map_tree
from .formulas import rows, totals

STATES = {"adamw": 2, "sgd": 1}  # vectors as long as that of the parameters
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """Bytes, but for the three numbers that say how a step cuts its batch."""

    parameter_specs: int
    gradients: int
    state: int  # of the optimiser
    kept: int  # by the pullbacks, if the batch is one piece
    passing: int  # arrays of a moment, if the batch is one piece
    shards: int
    images: int  # of the largest shard
    in_flight: int  # shards at a time
    step: int  # the peak of a step, beside parameters and state

    @property
    def training(self) -> int:
        """The peak of a training, beside its images and an average of the weights."""
        return self.parameters + self.state + self.step

    @property
    def measuring(self) -> int:
        """The peak of `measure`: a pass in one piece, then a step."""
        whole = self.gradients + self.kept + self.passing
        return self.parameters + max(whole, self.step)


def memory(
    config: ViTConfig,
    batch: int,
    dtype: str = "float32",
    *,
    optimiser: str = "adamw",
    shards: int | None = None,
    threads: int | None = None,
) -> Memory:
    """The memory of a training step, cut as `training.loss_and_gradients` cuts it.

    Of S shards, f = min(S, threads) are in flight. Each has what its pullbacks keep, what passes,
    and its gradients. From the first that is done there are two gradients more, the sum so far
    and one that is to be added, and as many other shards as are left, f or S - 1:

        shard = kept + passing + gradients
        step  = max(f shard, min(f, S - 1) shard + 2 gradients)

    It is an upper bound: shards do not reach their peaks at one moment.
    """
    threads = threads or cpu_count()
    S = min(shards or hollow(config, dtype).choose_shard_count(batch, threads), batch)
    f, images = min(S, threads), -(-batch // S)
    scalars = totals(rows(config, batch, dtype)).parameters * np.dtype(dtype).itemsize
    of_shard = kept(config, images, dtype) + passing(config, images, dtype) + scalars
    return Memory(
        parameters=scalars,
        gradients=scalars,
        state=STATES[optimiser] * scalars,
        kept=kept(config, batch, dtype),
        passing=passing(config, batch, dtype),
        shards=S,
        images=images,
        in_flight=f,
        step=max(f * of_shard, min(f, S - 1) * of_shard + 2 * scalars),
    )


def kept(config: ViTConfig, batch: int, dtype: str) -> int:
    """The bytes that the pullbacks of a whole model keep."""
    return totals(rows(config, batch, dtype)).kept


def passing(config: ViTConfig, batch: int, dtype: str) -> int:
    """The arrays that exist for a moment on the way back, in the block where they are largest.

    In attention's pullback dA, dscores and a product of their size, dpacked, and five gradients of
    the tokens, B (3 k T² + 8 T D) s; in the MLP's those of the hidden layer before and after the
    GELU, two of the tokens, and two blocks of GELU's, (2 B T (M + D) + 2 min(B T M, 2^16)) s.
    A stem has about six maps as large as its root's, 6 B (H / 2) (W / 2) F s.
    """
    c = config
    T, D, M, k = c.tokens, c.width, c.mlp_width, c.heads
    H, W = c.image_size
    n = batch * T
    sizes = [
        batch * 3 * k * T * T + 8 * n * D,
        2 * n * M + 2 * n * D + 2 * min(n * M, arrays.BLOCK_SIZE),
    ]
    if c.stem is not None:
        sizes.append(6 * batch * -(-H // 2) * -(-W // 2) * c.stem_width)
    return max(sizes) * np.dtype(dtype).itemsize


def hollow(config: ViTConfig, dtype: str) -> ViT:
    """A model whose parameters have shapes but no memory: each is one zero, seen many times."""
    zero = np.zeros((), dtype)
    params: dict[str, Any] = map_tree(
        lambda p: np.broadcast_to(zero, p.shape), parameter_specs(config)
    )
    return ViT(config, params)


def fits(available: int, batch: int, needs: Callable[[int], int]) -> int:
    """The largest batch, up to the given one, that needs no more bytes than there are.

    A still larger one might do where it is cut into smaller shards; that is not looked for.
    """
    batches = range(1, min(batch, available) + 1)  # an image takes a byte or more
    return bisect_right(batches, available, key=needs)


def available_memory() -> int | None:
    """Bytes that could still be taken, or None where the system does not tell.

    On Linux, MemAvailable; less if a control group, a container's, has less left.
    """
    found = []
    try:
        found.append(numbers(MEMINFO)["MemAvailable:"] << 10)
    except (OSError, KeyError, ValueError):
        names = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, KeyError, ValueError):  # no such group, or "max": no limit
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        idle = numbers(CGROUP / "memory.stat")["inactive_file"]  # files that need not stay
        found.append(limit - used + idle)
    return min(found, default=None)


def numbers(path: Path) -> dict[str, int]:
    """The first two words of each line of a file, a name and a whole number."""
    lines = path.read_text(encoding="ascii").splitlines()
    return {words[0]: int(words[1]) for words in map(str.split, lines)}
