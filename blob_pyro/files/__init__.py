"""Everything about a posterior on disk: a valid PEFT adapter, and what makes it a posterior."""

from blob_pyro.files.bayesian_peft import import_bayesian_peft
from blob_pyro.files.card import push_to_hub
from blob_pyro.files.export import export_draws, merge_mean
from blob_pyro.files.loading import load_posterior, posterior_task
from blob_pyro.files.saving import check_output, save_posterior

__all__ = [
    "check_output",
    "export_draws",
    "import_bayesian_peft",
    "load_posterior",
    "merge_mean",
    "posterior_task",
    "push_to_hub",
    "save_posterior",
]
