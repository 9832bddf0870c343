"""Checkpoints: a model's configuration and parameters as a file."""

from .checkpoint import CheckpointError, load, load_training, save

__all__ = ["CheckpointError", "load", "load_training", "save"]
