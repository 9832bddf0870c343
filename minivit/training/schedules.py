"""The learning rate: a linear warm-up, then a cosine or a line down to zero."""

import math

SCHEDULES = ("cosine", "linear", "constant")


def schedule_learning_rate(
    step: int, steps: int, peak: float, warmup: int = 0, schedule: str = "cosine"
) -> float:
    """The rate of a step, counted from 0 to steps - 1.

    It climbs linearly over `warmup` steps to `peak`, then falls to zero (Appendix B.1).
    Raises ValueError for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: choose {', '.join(SCHEDULES)}")
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    fall = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1}
    return peak * fall[schedule]
