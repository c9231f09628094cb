"""Posteriors on disk: a valid PEFT adapter, and beside it what makes it a posterior."""

from blob_pyro.checkpoint.loading import load_posterior, posterior_task
from blob_pyro.checkpoint.saving import check_output, save_posterior

__all__ = [
    "check_output",
    "load_posterior",
    "posterior_task",
    "save_posterior",
]
