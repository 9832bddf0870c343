"""Training: step, schedules, loop, evaluation, fine-tuning, few-shot evaluation."""

from ..optim import SGD, AdamW, clip_by_global_norm
from .baseline import fit_logistic_regression
from .descent import train_sgd
from .ema import EMA
from .evaluate import Score, evaluate
from .fewshot import evaluate_few_shot
from .figure import plot_training
from .finetune import FINE_TUNING, replace_head
from .lock import LockedError, lock_folder
from .log import read_log
from .loop import resume, train
from .presets import PRESETS, get_preset, make_recipe
from .progress import Progress, read_progress
from .recipe import OPTIMISERS, Recipe
from .run import ResumeError
from .schedules import SCHEDULES, schedule_learning_rate
from .signals import Interrupted
from .step import StepOptions, batch_gradients, loss_and_gradients

__all__ = [
    "EMA", "FINE_TUNING", "OPTIMISERS", "PRESETS", "SCHEDULES", "SGD", "AdamW", "Interrupted",
    "LockedError", "Progress", "Recipe", "ResumeError", "Score", "StepOptions", "batch_gradients",
    "clip_by_global_norm", "evaluate", "evaluate_few_shot", "fit_logistic_regression", "get_preset",
    "lock_folder", "loss_and_gradients", "make_recipe", "plot_training", "read_log",
    "read_progress", "replace_head", "resume", "schedule_learning_rate", "train", "train_sgd",
]  # fmt: skip
