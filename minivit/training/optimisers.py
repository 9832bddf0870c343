"""AdamW and SGD with momentum, over one vector that holds every parameter.

The kernels lie first in the vector, so that decay is a slice. An update goes over the vectors in
blocks that fit the cache, each block through all of its arithmetic before the next, and the
blocks over the threads.
"""

import math
from itertools import pairwise
from typing import Any

from ..arrays import Array, array_module
from ..shards import map_shards
from ..tree import pack
from .step import is_kernel

BLOCK = 1 << 18  # scalars


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

        m = β1 m + (1 - β1) g,   v = β2 v + (1 - β2) g²
        p = p - rate (m̄ / (√v̄ + ε) + decay p)

    with m̄ = m / (1 - β1^t) and v̄ = v / (1 - β2^t). Only kernels are decayed.
    """

    def __init__(
        self,
        params: dict[str, Any],
        decay: float = 0.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        self.vector, self.kernels = pack(params, first=is_kernel)
        self.decay, self.beta1, self.beta2, self.eps = decay, beta1, beta2, eps
        xp = array_module(self.vector)
        self.state = {"m": xp.zeros_like(self.vector), "v": xp.zeros_like(self.vector)}
        self.t = 0

    def update(self, gradient: Array, rate: float, threads: int | None = None) -> None:
        """Move every parameter; gradient is a vector in the order of `self.vector`."""
        self.t += 1
        xp = array_module(gradient)
        unbias_m = 1 / (1 - self.beta1**self.t)
        unbias_root_v = 1 / math.sqrt(1 - self.beta2**self.t)

        def of_block(block: slice) -> None:
            p, g = self.vector[block], gradient[block]
            m, v = self.state["m"][block], self.state["v"][block]
            m *= self.beta1
            passing = (1 - self.beta1) * g                    # one array for all: it stays cached
            m += passing
            v *= self.beta2
            xp.multiply(g, g, out=passing)
            passing *= 1 - self.beta2
            v += passing
            size = xp.sqrt(v, out=passing)
            size *= unbias_root_v
            size += self.eps
            move = xp.divide(m, size, out=passing)
            move *= rate * unbias_m
            if block.stop <= self.kernels:
                p *= 1 - rate * self.decay
            p -= move

        for _ in map_shards(of_block, blocks(len(self.vector), self.kernels), threads):
            pass


class SGD:
    """Stochastic gradient descent with momentum, the paper's optimiser for fine-tuning.

        m = momentum m + g,   p = p - rate (m + decay p)

    Only kernels are decayed.
    """

    def __init__(self, params: dict[str, Any], decay: float = 0.0, momentum: float = 0.9) -> None:
        self.vector, self.kernels = pack(params, first=is_kernel)
        self.decay, self.momentum = decay, momentum
        self.state = {"m": array_module(self.vector).zeros_like(self.vector)}
        self.t = 0

    def update(self, gradient: Array, rate: float, threads: int | None = None) -> None:
        """Move every parameter; gradient is a vector in the order of `self.vector`."""
        self.t += 1

        def of_block(block: slice) -> None:
            p, m = self.vector[block], self.state["m"][block]
            m *= self.momentum
            m += gradient[block]
            if block.stop <= self.kernels:
                p *= 1 - rate * self.decay
            p -= rate * m

        for _ in map_shards(of_block, blocks(len(self.vector), self.kernels), threads):
            pass


def blocks(size: int, kernels: int) -> list[slice]:
    """Slices that cover a vector; none has both kernels and others in it."""
    edges = [*range(0, kernels, BLOCK), *range(kernels, size, BLOCK), size]
    return [slice(a, b) for a, b in pairwise(edges)]


def clip_by_global_norm(gradient: Array, limit: float) -> Array:
    """Scale a gradient vector, in place, to at most this Euclidean norm; returns what it was."""
    xp = array_module(gradient)
    norm = xp.sqrt(gradient @ gradient)
    gradient *= xp.minimum(1, limit / (norm + 1e-12))
    return norm
