"""The training recipe: every option of a training run."""

import dataclasses
import math
from typing import Any

from ..models.config import format_fields, to_python
from ..optim import SGD, AdamW
from .schedules import SCHEDULES
from .step import StepOptions

OPTIMISERS = {"adamw": AdamW, "sgd": SGD}
CHOICES = {"optimiser": OPTIMISERS, "schedule": SCHEDULES}
NON_NEGATIVE = (
    "learning_rate", "warmup", "weight_decay", "grad_clip", "label_smoothing", "mixup", "cutmix",
    "ema", "validation",
)  # fmt: skip
INTEGERS = ("epochs", "batch_size", "shift", "randaugment", "seed", "grad_accumulation", "shards")
RANGES = {  # description, in error messages -> test, names of the fields
    "an integer, not": (lambda x: isinstance(x, int) or x is None, INTEGERS),
    "at least 1, not": (lambda x: x >= 1, ("epochs", "batch_size")),
    "at least 0, not": (lambda x: x >= 0, ("shift", "randaugment", "seed")),
    "finite and not negative:": (lambda x: 0 <= x < math.inf, NON_NEGATIVE),
    "at most 100, not": (lambda x: x <= 100, ("randaugment",)),
    "at most 1,000,000, not": (lambda x: x <= 1e6, ("epochs", "warmup", "shift")),
    "at most 10^18, not": (lambda x: x is None or x <= 1e18, INTEGERS),
    "below 1, not": (lambda x: x < 1, ("label_smoothing", "ema", "validation")),
    "from 0 to 10, not": (lambda x: 0 <= x <= 10, ("randaugment_magnitude",)),
    "from 0 to 1, not": (lambda x: 0 <= x <= 1, ("random_erasing",)),
}


@dataclasses.dataclass(frozen=True, repr=False)
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
        Seed of all random numbers, except the choice of the validation images.
    validation : float
        Share of the training images of each class that is set aside. The model is evaluated on
        these images after every epoch. 0 trains on all images and evaluates nothing.
    shards : int, optional
        Number of shards of a batch. By default it depends on the CPU cache and the cores.
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
        Number of micro-batches per batch, processed one after the other to save memory.

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
    validation: float = 0.1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, to_python(getattr(self, field.name)))
        for description, (is_valid, names) in RANGES.items():
            for name in names:
                if not is_valid(value := getattr(self, name)):
                    raise ValueError(f"{name} must be {description} {value!s:.40}")
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"unknown {name} {value!r}: choose {', '.join(choices)}")
        self.step_options()  # raises ValueError for invalid shards and grad_accumulation

    def __repr__(self) -> str:
        return format_fields(self, ("epochs", "batch_size", "optimiser", "learning_rate", "seed"))

    def step_options(self, threads: int | None = None) -> StepOptions:
        """Return the options of a training step."""
        names = "label_smoothing", "freeze", "grad_accumulation", "shards"
        return StepOptions(**{name: getattr(self, name) for name in names}, threads=threads)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, for JSON."""
        return dataclasses.asdict(self)
