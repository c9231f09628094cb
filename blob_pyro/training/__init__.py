"""Fitting a program to a data set."""

from blob_pyro.training.config import TrainingConfig
from blob_pyro.training.denormals import flush_denormals
from blob_pyro.training.fit import Collator, fit
from blob_pyro.training.step_record import StepRecord

__all__ = [
    # verbs
    "fit",
    "flush_denormals",
    # classes
    "Collator",
    "StepRecord",
    "TrainingConfig",
]
