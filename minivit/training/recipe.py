"""How to train: everything that can be chosen, in one place."""

import dataclasses
import math

from ..optim import SGD, AdamW
from .schedules import SCHEDULES

OPTIMISERS = {"adamw": AdamW, "sgd": SGD}
WHOLE = {
    "epochs": 1,
    "batch_size": 1,
    "shift": 0,
    "randaugment": 0,
    "seed": 0,
    "grad_accumulation": 1,
}
FROM_0_UP = (
    "learning_rate",
    "warmup",
    "weight_decay",
    "grad_clip",
    "label_smoothing",
    "mixup",
    "cutmix",
    "ema",
)
BELOW_1 = ("label_smoothing", "ema")
LARGEST = {"randaugment_magnitude": 10, "random_erasing": 1}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train. The defaults suit the handwritten digits.

    batch_size: images a step; an epoch is cut into nearly equal batches of at most this size.
    learning_rate: the learning rate's peak; warmup: the epochs until it is reached; decay: what follows.
    weight_decay: decoupled, kernels only; clip: the largest global norm of the gradient, 0 for
    none; smoothing: of the labels.
    shift: by how many pixels images are moved about at random; flip: left and right exchanged for
    half of them; randaugment: how many of its operations each goes through, at this magnitude, 0
    to 10; erase: the chance of losing a box; mixup, cutmix: the parameter of the Beta distribution
    by which two images and their labels are mixed, 0 for none (see `data/augment.py`).
    shards: pieces of a batch (None: as the cache and the cores suggest, then kept on resuming).
    freeze: train the head alone.
    ema: the decay of an exponential average of the weights, which is then the model; 0 for
    none. accumulate: pieces that a batch is done in, one after the other, where all of it at once
    would need too much memory; `shards` is then of a piece.
    """

    epochs: int = 50
    batch_size: int = 128
    optimiser: str = "adamw"
    learning_rate: float = 2e-3
    warmup: float = 5
    schedule: str = "cosine"
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    label_smoothing: float = 0.1
    shift: int = 1
    seed: int = 0
    shards: int | None = None
    freeze: bool = False
    flip: bool = False
    randaugment: int = 0
    randaugment_magnitude: float = 9.0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    grad_accumulation: int = 1

    def __post_init__(self) -> None:
        for name, low in WHOLE.items():
            value = getattr(self, name)
            if value < low:
                raise ValueError(f"{name} must be at least {low}, not {value}")
        for name in FROM_0_UP:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a number from 0 up, not {getattr(self, name)}")
        for name in BELOW_1:
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is a share below 1, not {getattr(self, name)}")
        for name, high in LARGEST.items():
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{name} goes from 0 to {high}, not {getattr(self, name)}")
        if self.shards is not None and self.shards < 1:
            raise ValueError(f"shards must be at least 1, not {self.shards}")
        for name, choices in {"optimiser": OPTIMISERS, "schedule": SCHEDULES}.items():
            if getattr(self, name) not in choices:
                known = ", ".join(choices)
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose {known}")
