"""Dropout and drop path: on when a random generator is passed in, and only then."""

import numpy as np

from ..arrays import Array, Pullback, array_module


def dropout(
    x: Array, rate: float, generator: np.random.Generator | None = None
) -> tuple[Array, Pullback]:
    """Set each entry to zero with probability `rate` and divide the others by 1 - rate.

    Drawn on the host, so that NumPy and CuPy drop the same entries. Without a generator, or at
    rate 0, x passes unchanged. Raises ValueError for a rate outside [0, 1). (Appendix B.1)
    """
    check_rate(rate)
    if generator is None or rate == 0:
        return x, lambda dy: dy
    kind = x.real.dtype
    kept = (generator.random(x.shape, dtype=np.float32) >= rate).astype(kind)
    mask = array_module(x).asarray(kept / kind.type(1 - rate))

    def pullback(dy: Array) -> Array:
        return dy * mask

    return x * mask, pullback


def drop_path(
    x: Array, rate: float, generator: np.random.Generator | None = None
) -> tuple[Array, Pullback]:
    """Dropout of whole images: what a branch adds to an image is zero with probability `rate`.

    x (B, ...)  ->  the same shape. For these images the network is a layer shorter; the others
    are divided by 1 - rate, as in `dropout`, so that evaluation has nothing to rescale (Huang et
    al., "Deep networks with stochastic depth", 2016, who multiply there, and drop for a batch).
    Raises ValueError for a rate outside [0, 1).
    """
    check_rate(rate)
    if generator is None or rate == 0:
        return x, lambda dy: dy
    ones = array_module(x).ones((len(x), *[1] * (x.ndim - 1)), dtype=x.real.dtype)
    mask, _ = dropout(ones, rate, generator)  # (B, 1, ..., 1)

    def pullback(dy: Array) -> Array:
        return dy * mask

    return x * mask, pullback


def check_rate(rate: float) -> None:
    """Raise ValueError for a rate outside [0, 1)."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout is a rate from 0 to below 1, not {rate}")
