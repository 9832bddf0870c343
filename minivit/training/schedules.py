"""Learning-rate schedules: linear warm-up, then cosine or linear decay to zero."""

import math

SCHEDULES = ("cosine", "linear", "constant")


def schedule_learning_rate(
    step: int, steps: int, peak: float, warmup: int = 0, schedule: str = "cosine"
) -> float:
    """Return the learning rate of a step, counted from 0 to steps - 1.

    It increases linearly to `peak` over `warmup` steps and then follows the schedule (appendix
    B.1). Raises ValueError for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: choose {', '.join(SCHEDULES)}")
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    factor = {
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "linear": 1 - progress,
        "constant": 1,
    }
    return peak * factor[schedule]
