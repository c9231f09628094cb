"""The demonstration: plain LoRA against BLoB on the help-desk messages."""

from blob_pyro.demo.comparison import BLOB, Comparison, compare
from blob_pyro.demo.report import COLUMNS, table, write

__all__ = [
    # fitting and evaluating
    "BLOB",
    "Comparison",
    "compare",
    # showing
    "COLUMNS",
    "table",
    "write",
]
