"""AdamW and SGD with momentum, applied to a vector of all parameters.

Weight decay applies to the first part of the vector, the kernels. An update processes the vector in
blocks that fit the CPU cache and distributes the blocks over the threads.
"""

import math
from collections.abc import Callable
from functools import singledispatch
from itertools import pairwise

from .arrays import Array, array_module, device_of
from .parallel import map_shards
from .tree import ParameterVector

BLOCK_SIZE = 1 << 18  # scalars


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

        m = β1 m + (1 - β1) g,   v = β2 v + (1 - β2) g²
        p = p - learning_rate (m̂ / (√v̂ + ε) + weight_decay p)

    with m̂ = m / (1 - β1^t) and v̂ = v / (1 - β2^t). Weight decay applies to kernels only.
    """

    def __init__(
        self, parameters: ParameterVector, weight_decay: float = 0.0,
        beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
    ) -> None:  # fmt: skip
        self.parameters, self.weight_decay = parameters, weight_decay
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        zeros_like = array_module(parameters.vector).zeros_like
        self.state = {"m": zeros_like(parameters.vector), "v": zeros_like(parameters.vector)}
        self.t = 0

    def update(self, gradient: Array, learning_rate: float, threads: int | None = None) -> None:
        """Update every parameter. `gradient` (P,) has the order of the parameter vector."""
        self.t += 1
        vector, _, decayed = self.parameters
        step_size = learning_rate / (1 - self.beta1**self.t)
        decay_factor = 1 - learning_rate * self.weight_decay
        v_scale = 1 / math.sqrt(1 - self.beta2**self.t)
        adamw(
            vector, gradient, **self.state, decayed=decayed, step_size=step_size,
            decay_factor=decay_factor, beta1=self.beta1, beta2=self.beta2, v_scale=v_scale,
            eps=self.eps, threads=threads,
        )  # fmt: skip


@singledispatch
def adamw(
    p: Array, g: Array, m: Array, v: Array, *, decayed: int, step_size: float, decay_factor: float,
    beta1: float, beta2: float, v_scale: float, eps: float, threads: int | None = None,
) -> None:  # fmt: skip
    """Update the parameters p and both moments in place; all arrays are vectors (P,).

        m = β1 m + (1 - β1) g,   v = β2 v + (1 - β2) g²,   p = p - step_size m / (v_scale √v + ε)

    The first `decayed` parameters are multiplied by `decay_factor` before they are updated.
    """
    xp = array_module(p)

    def update_block(block: slice) -> None:
        p_block, g_block, m_block, v_block = p[block], g[block], m[block], v[block]
        m_block *= beta1
        scratch = (1 - beta1) * g_block  # reused below, so that it stays in the cache
        m_block += scratch
        v_block *= beta2
        xp.multiply(g_block, g_block, out=scratch)
        scratch *= 1 - beta2
        v_block += scratch
        denominator = xp.sqrt(v_block, out=scratch)
        denominator *= v_scale
        denominator += eps
        step = xp.divide(m_block, denominator, out=scratch)
        step *= step_size
        if block.stop <= decayed:
            p_block *= decay_factor
        p_block -= step

    for_each_block(update_block, p, decayed, threads)


class SGD:
    """Stochastic gradient descent with momentum, the paper's optimiser for fine-tuning.

        m = momentum m + g,   p = p - learning_rate (m + weight_decay p)

    Weight decay applies to kernels only.
    """

    def __init__(
        self, parameters: ParameterVector, weight_decay: float = 0.0, momentum: float = 0.9
    ) -> None:
        self.parameters, self.weight_decay, self.momentum = parameters, weight_decay, momentum
        self.state = {"m": array_module(parameters.vector).zeros_like(parameters.vector)}
        self.t = 0

    def update(self, gradient: Array, learning_rate: float, threads: int | None = None) -> None:
        """Update every parameter. `gradient` (P,) has the order of the parameter vector."""
        self.t += 1
        vector, _, decayed = self.parameters

        def update_block(block: slice) -> None:
            p, m = vector[block], self.state["m"][block]
            m *= self.momentum
            m += gradient[block]
            if block.stop <= decayed:
                p *= 1 - learning_rate * self.weight_decay
            p -= learning_rate * m

        for_each_block(update_block, vector, decayed, threads)


def for_each_block(
    function: Callable[[slice], None], vector: Array, decayed: int, threads: int | None
) -> None:
    """Call function(block) for all blocks (slices) of a vector, on several threads.

    On a GPU there are two blocks: the decayed and the other parameters.
    """
    if device_of(vector) == "gpu":
        for block in block_slices(len(vector), decayed, len(vector)):
            function(block)
        return
    for _ in map_shards(function, block_slices(len(vector), decayed), threads):
        pass


def block_slices(size: int, decayed: int, step: int | None = None) -> list[slice]:
    """Return slices of a vector, each with only decayed or only other parameters."""
    step = step or BLOCK_SIZE
    edges = [*range(0, decayed, step), *range(decayed, size, step), size]
    return [slice(a, b) for a, b in pairwise(edges)]


def clip_by_global_norm(gradient: Array, max_norm: float) -> Array:
    """Scale a gradient vector in place to at most this Euclidean norm. Return the norm before."""
    xp = array_module(gradient)
    g = gradient.astype("float32") if gradient.dtype.char == "e" else gradient
    norm = xp.sqrt(g @ g)
    gradient *= xp.minimum(1, max_norm / (norm + 1e-12))
    return norm
