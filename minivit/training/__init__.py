"""Training: the step, the optimisers and schedules, the loop, the score; fine-tuning, few-shot."""

from ..optim import SGD, AdamW, clip_by_global_norm
from .baseline import fit_logistic_regression
from .descent import train_sgd
from .ema import EMA
from .evaluate import Score, evaluate, map_batches
from .fewshot import evaluate_few_shot
from .finetune import FINE_TUNING, replace_head
from .interrupted import begun_on, begun_with, epochs_done, is_unfinished
from .loop import ResumeError, read_log, resume, train
from .recipe import OPTIMISERS, Recipe
from .schedules import SCHEDULES, schedule_learning_rate
from .step import loss_and_gradients, packed_gradients

__all__ = [
    "SCHEDULES",
    "FINE_TUNING",
    "OPTIMISERS",
    "SGD",
    "AdamW",
    "EMA",
    "Recipe",
    "Score",
    "ResumeError",
    "begun_on",
    "begun_with",
    "clip_by_global_norm",
    "train_sgd",
    "epochs_done",
    "evaluate",
    "evaluate_few_shot",
    "replace_head",
    "map_batches",
    "is_unfinished",
    "schedule_learning_rate",
    "fit_logistic_regression",
    "loss_and_gradients",
    "packed_gradients",
    "read_log",
    "resume",
    "train",
]
