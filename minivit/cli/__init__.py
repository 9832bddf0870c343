"""The command line: `minivit COMMAND` or `python -m minivit COMMAND`."""

from .main import main

__all__ = ["main"]
