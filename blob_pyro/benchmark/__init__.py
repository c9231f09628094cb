"""Methods on tasks with seeds: one command, one table."""

from blob_pyro.benchmark.cell import Cell
from blob_pyro.benchmark.cell_run import run_cell
from blob_pyro.benchmark.config import BenchmarkConfig, MethodConfig, TaskConfig
from blob_pyro.benchmark.config_file import read_config
from blob_pyro.benchmark.cost import Cost, extra_parameters, measured
from blob_pyro.benchmark.plots import plot_methods
from blob_pyro.benchmark.run import run_benchmark
from blob_pyro.benchmark.tables import cost_summary, latex_table, markdown_table, summary

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
    # what it costs
    "Cost",
    "extra_parameters",
    "measured",
    # tables and plots
    "cost_summary",
    "latex_table",
    "markdown_table",
    "plot_methods",
    "summary",
]
