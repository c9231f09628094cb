"""Fitting a program to a data set."""

from blob_pyro.training.batches import Collator
from blob_pyro.training.checkpoints import CheckpointConfig, TrainingInterruptedError
from blob_pyro.training.config import TrainingConfig, flush_denormals
from blob_pyro.training.fit import fit
from blob_pyro.training.sharded_predictive import sharded_predictive
from blob_pyro.training.step_record import StepRecord, best_step

__all__ = [
    # verbs
    "best_step",
    "fit",
    "flush_denormals",
    "sharded_predictive",
    # classes
    "CheckpointConfig",
    "Collator",
    "StepRecord",
    "TrainingConfig",
    "TrainingInterruptedError",
]
