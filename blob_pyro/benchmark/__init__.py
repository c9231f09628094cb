"""Methods on tasks with seeds: one command, one table."""

from blob_pyro.benchmark.cell import Cell, run_cell
from blob_pyro.benchmark.config import BenchmarkConfig, MethodConfig, TaskConfig, read_config
from blob_pyro.benchmark.plots import plot_methods
from blob_pyro.benchmark.run import run_benchmark
from blob_pyro.benchmark.tables import Layout, latex_table, markdown_table, summary

__all__ = [
    # what to run
    "BenchmarkConfig",
    "MethodConfig",
    "TaskConfig",
    "read_config",
    # running it
    "Cell",
    "run_benchmark",
    "run_cell",
    # tables and plots
    "Layout",
    "latex_table",
    "markdown_table",
    "plot_methods",
    "summary",
]
