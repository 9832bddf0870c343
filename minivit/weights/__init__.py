"""Load and save models: minivit's checkpoints, and files of the authors, timm and Hugging Face."""

from .convert import LAYOUTS, export
from .files import CheckpointError
from .load import load, save_as
from .own import load_training, read_progress, save
from .positions import resize_positions

__all__ = [
    "LAYOUTS", "CheckpointError", "export", "load", "load_training", "read_progress",
    "resize_positions", "save", "save_as",
]  # fmt: skip
