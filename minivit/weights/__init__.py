"""Load and save models: minivit's checkpoints, and files of the authors, timm and Hugging Face."""

from .class_names import CLASS_NAMES, find_class_names
from .convert import LAYOUTS, export
from .files import CheckpointError
from .load import CHECKPOINT, find_weights, load, save_as
from .own import load_training, read_config, read_progress, save
from .positions import resize_positions

__all__ = [
    "CHECKPOINT", "CLASS_NAMES", "LAYOUTS", "CheckpointError", "export", "find_class_names",
    "find_weights", "load", "load_training", "read_config", "read_progress", "resize_positions",
    "save", "save_as",
]  # fmt: skip
