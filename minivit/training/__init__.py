"""Training: the step, the optimisers and schedules, the loop, the score; fine-tuning, few-shot."""

from .average import Average
from .baseline import logistic_regression
from .descent import descend
from .evaluate import Score, evaluate, in_batches
from .fewshot import few_shot
from .finetune import FINE_TUNING, for_fine_tuning
from .interrupted import begun_on, begun_with, epochs_done, is_unfinished
from .loop import Unfinished, read_log, resume, train
from .optimisers import SGD, AdamW, clip_by_global_norm
from .recipe import OPTIMISERS, Recipe
from .schedules import DECAYS, learning_rate
from .step import loss_and_gradients, packed_gradients

__all__ = [
    "DECAYS",
    "FINE_TUNING",
    "OPTIMISERS",
    "SGD",
    "AdamW",
    "Average",
    "Recipe",
    "Score",
    "Unfinished",
    "begun_on",
    "begun_with",
    "clip_by_global_norm",
    "descend",
    "epochs_done",
    "evaluate",
    "few_shot",
    "for_fine_tuning",
    "in_batches",
    "is_unfinished",
    "learning_rate",
    "logistic_regression",
    "loss_and_gradients",
    "packed_gradients",
    "read_log",
    "resume",
    "train",
]
