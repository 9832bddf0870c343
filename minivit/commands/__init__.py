"""The commands of the command line, a file for each. Each returns its exit status."""

from .attention import attention
from .cost import cost
from .evaluate import evaluate
from .exercise import exercise
from .gradcheck import gradcheck
from .predict import predict
from .train import train

COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "attention": attention,
    "gradcheck": gradcheck,
    "cost": cost,
    "exercise": exercise,
}

__all__ = ["COMMANDS"]
