"""How to train: everything that can be chosen, in one place."""

import dataclasses
import math

from .optimisers import SGD, AdamW
from .schedules import DECAYS

OPTIMISERS = {"adamw": AdamW, "sgd": SGD}
WHOLE = {"epochs": 1, "batch": 1, "shift": 0, "randaugment": 0, "seed": 0, "accumulate": 1}
FROM_0_UP = ("rate", "warmup", "weight_decay", "clip", "smoothing", "mixup", "cutmix", "average")
BELOW_1 = ("smoothing", "average")
LARGEST = {"magnitude": 10, "erase": 1}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train. The defaults suit the handwritten digits.

    batch: images a step; an epoch is cut into nearly equal batches of at most this size.
    rate: the learning rate's peak; warmup: the epochs until it is reached; decay: what follows.
    weight_decay: decoupled, kernels only; clip: the largest global norm of the gradient, 0 for
    none; smoothing: of the labels.
    shift: by how many pixels images are moved about at random; flip: left and right exchanged for
    half of them; randaugment: how many of its operations each goes through, at this magnitude, 0
    to 10; erase: the chance of losing a box; mixup, cutmix: the parameter of the Beta distribution
    by which two images and their labels are mixed, 0 for none (see `data/augment.py`).
    shards: pieces of a batch (None: as the cache and the cores suggest, then kept on resuming).
    freeze: train the head alone.
    average: the decay of an exponential average of the weights, which is then the model; 0 for
    none. accumulate: pieces that a batch is done in, one after the other, where all of it at once
    would need too much memory; `shards` is then of a piece.
    """

    epochs: int = 50
    batch: int = 128
    optimiser: str = "adamw"
    rate: float = 2e-3
    warmup: float = 5
    decay: str = "cosine"
    weight_decay: float = 0.1
    clip: float = 1.0
    smoothing: float = 0.1
    shift: int = 1
    seed: int = 0
    shards: int | None = None
    freeze: bool = False
    flip: bool = False
    randaugment: int = 0
    magnitude: float = 9.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    average: float = 0.0
    accumulate: int = 1

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
        for name, choices in {"optimiser": OPTIMISERS, "decay": DECAYS}.items():
            if getattr(self, name) not in choices:
                known = ", ".join(choices)
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose {known}")
