"""The options of the command line: what each command can be told, and how its help reads."""

from .parser import build_parser

__all__ = ["build_parser"]
