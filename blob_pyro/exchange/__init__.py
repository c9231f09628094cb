"""Posteriors for and from other programs."""

from blob_pyro.exchange.bayesian_peft import import_bayesian_peft
from blob_pyro.exchange.draws import export_draws
from blob_pyro.exchange.mean import merge_mean

__all__ = [
    # from other programs
    "import_bayesian_peft",
    # for other programs
    "export_draws",
    "merge_mean",
]
