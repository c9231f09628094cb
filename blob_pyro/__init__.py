"""Bayesian LoRA in Pyro: BLoB posteriors over the adapters of PEFT models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blob_pyro.version import __version__

if TYPE_CHECKING:
    from blob_pyro.files import (
        export_draws,
        import_bayesian_peft,
        load_posterior,
        merge_mean,
        save_posterior,
    )
    from blob_pyro.files.hub import push_to_hub
    from blob_pyro.infer.generate import generate
    from blob_pyro.lora import bayesianize, unbayesianize
    from blob_pyro.recipe import Posterior, load
    from blob_pyro.recipe.fine_tune import fine_tune

# Loaded when first used: the metrics and the tasks must not need Pyro or PEFT.
_HOMES = {
    "Posterior": "blob_pyro.recipe",
    "fine_tune": "blob_pyro.recipe",
    "load": "blob_pyro.recipe",
    "bayesianize": "blob_pyro.lora",
    "unbayesianize": "blob_pyro.lora",
    "export_draws": "blob_pyro.files",
    "generate": "blob_pyro.infer",
    "import_bayesian_peft": "blob_pyro.files",
    "load_posterior": "blob_pyro.files",
    "merge_mean": "blob_pyro.files",
    "push_to_hub": "blob_pyro.files.hub",
    "save_posterior": "blob_pyro.files",
}

__all__ = [
    "__version__",
    # one object
    "Posterior",
    "fine_tune",
    "load",
    # making PEFT models Bayesian
    "bayesianize",
    "unbayesianize",
    # writing text
    "generate",
    # files
    "export_draws",
    "import_bayesian_peft",
    "load_posterior",
    "merge_mean",
    "push_to_hub",
    "save_posterior",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'blob_pyro' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
