"""Dropout and drop path. They are active only if a random generator is given."""

import numpy as np

from ..arrays import Array, Pullback, array_module


def dropout(
    x: Array, rate: float, generator: np.random.Generator | None = None
) -> tuple[Array, Pullback]:
    """Set each entry to zero with probability `rate` and divide the others by 1 - rate.

    x, any shape  ->  y, the same shape    (Appendix B.1)
    The mask is drawn on the host, so that NumPy and CuPy drop the same entries. Without a
    generator, or at rate 0, x is returned unchanged. Raises ValueError if the rate is not in
    [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the dropout rate must be in [0, 1), not {rate}")
    if generator is None or rate == 0:
        return x, lambda dy: dy
    dtype = x.real.dtype
    kept = (generator.random(x.shape, dtype=np.float32) >= rate).astype(dtype)
    mask = array_module(x).asarray(kept / dtype.type(1 - rate))
    return x * mask, lambda dy: dy * mask


def drop_path(
    x: Array, rate: float, generator: np.random.Generator | None = None
) -> tuple[Array, Pullback]:
    """Stochastic depth: for each image, set a residual branch to zero with probability `rate`.

    x (B, ...)  ->  y (B, ...)
    The other branches are divided by 1 - rate, as in `dropout`. Huang et al., "Deep networks with
    stochastic depth" (2016), instead drop a branch for the entire batch and rescale at test time.
    Raises ValueError if the rate is not in [0, 1).
    """
    ones = array_module(x).ones((len(x), *[1] * (x.ndim - 1)), dtype=x.real.dtype)
    mask, _ = dropout(ones, rate, generator)  # (B, 1, ..., 1)
    return (x, lambda dy: dy) if mask is ones else (x * mask, lambda dy: dy * mask)
