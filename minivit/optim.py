"""AdamW and SGD with momentum, over one vector that holds every parameter.

The kernels lie first in the vector, so that decay is a slice. An update goes over the vectors in
blocks that fit the cache, each block through all of its arithmetic before the next, and the
blocks over the threads.
"""

import math
from collections.abc import Callable
from functools import singledispatch
from itertools import pairwise
from typing import Any

from .arrays import Array, array_module, device_of
from .parallel import map_shards
from .tree import is_kernel, pack

BLOCK_SIZE = 1 << 18  # scalars


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

        m = β1 m + (1 - β1) g,   v = β2 v + (1 - β2) g²
        p = p - rate (m̄ / (√v̄ + ε) + decay p)

    with m̄ = m / (1 - β1^t) and v̄ = v / (1 - β2^t). Only kernels are decayed.
    """

    def __init__(
        self,
        params: dict[str, Any],
        weight_decay: float = 0.0,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        self.vector, self.kernels = pack(params, first=is_kernel)
        self.weight_decay, self.beta1, self.beta2, self.eps = weight_decay, beta1, beta2, eps
        xp = array_module(self.vector)
        self.state = {"m": xp.zeros_like(self.vector), "v": xp.zeros_like(self.vector)}
        self.t = 0

    def update(self, gradient: Array, learning_rate: float, threads: int | None = None) -> None:
        """Move every parameter; gradient is a vector in the order of `self.vector`."""
        self.t += 1
        adamw(
            self.vector,
            gradient,
            **self.state,
            decayed=self.kernels,
            learning_rate=rate * (1 / (1 - self.beta1**self.t)),  # m̄ for m
            decay_factor=1 - rate * self.weight_decay,
            beta1=self.beta1,
            beta2=self.beta2,
            v_scale=1 / math.sqrt(1 - self.beta2**self.t),  # √v̄ for √v
            eps=self.eps,
            threads=threads,
        )


@singledispatch
def adamw(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    decayed: int,
    learning_rate: float,
    decay_factor: float,
    beta1: float,
    beta2: float,
    v_scale: float,
    eps: float,
    threads: int | None = None,
) -> None:
    """Move the parameters p by the gradient g, and both moments; all are vectors of one order.

        m = β1 m + (1 - β1) g,   v = β2 v + (1 - β2) g²,   p = p - rate m / (unbias √v + eps)

    The first `kernels` parameters shrink to p · keep before they are moved.
    """
    xp = array_module(p)

    def of_block(block: slice) -> None:
        its_p, its_g, its_m, its_v = p[block], g[block], m[block], v[block]
        its_m *= beta1
        passing = (1 - beta1) * its_g  # one array for all: it stays cached
        its_m += passing
        its_v *= beta2
        xp.multiply(its_g, its_g, out=passing)
        passing *= 1 - beta2
        its_v += passing
        size = xp.sqrt(its_v, out=passing)
        size *= unbias
        size += eps
        move = xp.divide(its_m, size, out=passing)
        move *= rate
        if block.stop <= kernels:
            its_p *= keep
        its_p -= move

    for_each_block(of_block, p, kernels, threads)


class SGD:
    """Stochastic gradient descent with momentum, the paper's optimiser for fine-tuning.

        m = momentum m + g,   p = p - rate (m + decay p)

    Only kernels are decayed.
    """

    def __init__(
        self, params: dict[str, Any], weight_decay: float = 0.0, momentum: float = 0.9
    ) -> None:
        self.vector, self.kernels = pack(params, first=is_kernel)
        self.weight_decay, self.momentum = weight_decay, momentum
        self.state = {"m": array_module(self.vector).zeros_like(self.vector)}
        self.t = 0

    def update(self, gradient: Array, learning_rate: float, threads: int | None = None) -> None:
        """Move every parameter; gradient is a vector in the order of `self.vector`."""
        self.t += 1

        def of_block(block: slice) -> None:
            p, m = self.vector[block], self.state["m"][block]
            m *= self.momentum
            m += gradient[block]
            if block.stop <= self.kernels:
                p *= 1 - rate * self.weight_decay
            p -= rate * m

        for_each_block(of_block, self.vector, self.kernels, threads)


def for_each_block(
    function: Callable[[slice], None], vector: Array, kernels: int, threads: int | None
) -> None:
    """function(block) for slices that cover a vector, on so many threads.

    A GPU, which has no such cache and needs none of our threads, gets two slices at most.
    """
    if device_of(vector) == "gpu":
        for block in block_slices(len(vector), kernels, len(vector)):
            function(block)
        return
    for _ in map_shards(function, block_slices(len(vector), kernels), threads):
        pass


def block_slices(size: int, kernels: int, step: int | None = None) -> list[slice]:
    """Slices that cover a vector; none has both kernels and others in it."""
    step = step or BLOCK_SIZE
    edges = [*range(0, kernels, step), *range(kernels, size, step), size]
    return [slice(a, b) for a, b in pairwise(edges)]


def clip_by_global_norm(gradient: Array, limit: float) -> Array:
    """Scale a gradient vector, in place, to at most this Euclidean norm; returns what it was."""
    xp = array_module(gradient)
    norm = xp.sqrt(gradient @ gradient)
    gradient *= xp.minimum(1, limit / (norm + 1e-12))
    return norm
