"""The training recipe: every option of a training run."""

import dataclasses
import math
from typing import Any

from ..optim import SGD, AdamW
from .schedules import SCHEDULES
from .step import StepOptions

OPTIMISERS = {"adamw": AdamW, "sgd": SGD}
MINIMUM = {
    "epochs": 1, "batch_size": 1, "shift": 0, "randaugment": 0, "seed": 0, "grad_accumulation": 1,
}  # fmt: skip
NON_NEGATIVE = (
    "learning_rate", "warmup", "weight_decay", "grad_clip", "label_smoothing", "mixup", "cutmix",
    "ema",
)  # fmt: skip
BELOW_1 = ("label_smoothing", "ema")
MAXIMUM = {"randaugment_magnitude": 10, "random_erasing": 1}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The options of a training run. The defaults are for the handwritten digits.

    Parameters
    ----------
    epochs, batch_size : int
        An epoch is split into batches of nearly equal size, at most `batch_size` images.
    optimiser : str
        "adamw" or "sgd" (with momentum).
    learning_rate : float
        Peak learning rate, reached after `warmup` epochs. Then `schedule` applies: "cosine",
        "linear" or "constant".
    weight_decay : float
        Decoupled weight decay, applied to kernels only.
    grad_clip : float
        Maximum global gradient norm; 0 disables clipping.
    label_smoothing : float
        Probability spread evenly over all classes.
    shift : int
        Random translation of the images, in pixels (random crop of the padded image).
    seed : int
        Seed of all random numbers.
    shards : int, optional
        Number of parallel parts of a batch. By default it depends on the CPU cache and the cores.
        It is stored in the checkpoint, because the last bits of the result depend on it.
    freeze : bool
        Train the head alone.
    flip : bool
        Mirror each image horizontally with probability 1/2.
    randaugment, randaugment_magnitude : int, float
        Number of RandAugment operations per image, and their magnitude, 0 to 10.
    random_erasing : float
        Probability of erasing a rectangle of an image.
    mixup, cutmix : float
        Parameters of the Beta distributions for mixing two images; 0 disables them.
    ema : float
        Decay of the exponential moving average of the weights; 0 disables it. The averaged weights
        are evaluated and saved.
    grad_accumulation : int
        Number of parts of a batch that are processed one after the other to save memory.

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> Recipe(epochs=10, learning_rate=1e-3).schedule
    'cosine'
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
        for name, low in MINIMUM.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        for name in NON_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative: {getattr(self, name)}")
        for name in BELOW_1:
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, not {getattr(self, name)}")
        for name, high in MAXIMUM.items():
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from 0 to {high}, not {getattr(self, name)}")
        if self.shards is not None and self.shards < 1:
            raise ValueError(f"shards must be at least 1, not {self.shards}")
        for name, choices in {"optimiser": OPTIMISERS, "schedule": SCHEDULES}.items():
            if getattr(self, name) not in choices:
                known = ", ".join(choices)
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose {known}")

    def step_options(self, threads: int | None = None) -> StepOptions:
        """Return the options of a training step."""
        return StepOptions(
            label_smoothing=self.label_smoothing,
            freeze=self.freeze,
            grad_accumulation=self.grad_accumulation,
            shards=self.shards,
            threads=threads,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, for JSON."""
        return dataclasses.asdict(self)
