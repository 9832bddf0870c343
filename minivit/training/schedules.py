"""The learning rate: a linear warm-up, then a cosine or a line down to zero."""

import math

DECAYS = ("cosine", "linear", "constant")


def learning_rate(
    step: int, steps: int, peak: float, warmup: int = 0, decay: str = "cosine"
) -> float:
    """The rate of a step, counted from 0 to steps - 1.

    It climbs linearly over `warmup` steps to `peak`, then falls to zero (Appendix B.1).
    Raises ValueError for an unknown decay.
    """
    if decay not in DECAYS:
        raise ValueError(f"unknown decay {decay!r}: choose {', '.join(DECAYS)}")
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    fall = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1}
    return peak * fall[decay]
