"""What a model costs: its ledger of products and memory, by formula, and measured."""

from .counting import counted_flop
from .formulas import Row, rows, totals
from .measure import Measured, kept_by_whole, measure, measure_step
from .memory import Memory, available_memory, fits, memory
from .table import LEGEND, figure, measured, measured_head, predicted, summary, write_csv

__all__ = [
    "LEGEND",
    "Measured",
    "Memory",
    "Row",
    "available_memory",
    "counted_flop",
    "figure",
    "fits",
    "kept_by_whole",
    "measure",
    "measure_step",
    "measured",
    "measured_head",
    "memory",
    "predicted",
    "rows",
    "summary",
    "totals",
    "write_csv",
]
