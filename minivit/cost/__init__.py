"""The cost of a model by formula: parameters, multiply-adds and memory. See `formulas.py`."""

from .formulas import LayerCost, layer_costs, total_cost
from .memory import Memory, max_batch_size, memory
from .report import LEGEND, format_memory, format_quantity, format_table, write_csv
from .summary import summary

__all__ = [
    "LEGEND", "LayerCost", "Memory", "format_memory", "format_quantity",
    "format_table", "layer_costs", "max_batch_size", "memory", "summary", "total_cost", "write_csv",
]  # fmt: skip
