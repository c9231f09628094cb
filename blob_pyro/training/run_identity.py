"""What makes two runs the same run, so that a checkpoint of one goes on as the other."""

import hashlib
import json
from typing import Any

from accelerate import Accelerator
from datasets import Dataset

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.networks import base_identity
from blob_pyro.training.config import TrainingConfig
from blob_pyro.training.step_record import learned
from blob_pyro.training.steps import Steps

# They change memory and time, not what is computed.
_INDIFFERENT = {"gradient_checkpointing", "compile"}


def run_identity(
    model: BayesianLora,
    guide: LoraGuide,
    elbo: ReweightedTrace_ELBO,
    data: Dataset,
    validation: Dataset | None,
    config: TrainingConfig,
    accelerator: Accelerator,
    steps: Steps,
) -> dict[str, str]:
    """Describe a run: the name of each thing that decides its course, and the thing in words.

    Data and base weights are told apart by their content.
    """
    settings = config.model_dump(exclude=_INDIFFERENT)
    objective = {f"elbo.{name}": v for name, v in elbo.state_dict().items() if name != "step"}
    base = base_identity(model.network.get_base_model())
    things: dict[str, Any] = {
        **{f"training.{name}": value for name, value in settings.items()},
        **objective,
        "elbo.per_datum": elbo.per_datum,
        "model": [type(model).__name__, model.num_data, model.likelihood_config()],
        "temperature": model.temperature.tolist() if isinstance(model, Classifier) else None,
        "prior": _described(model.prior),
        "steps": [type(steps).__name__, steps.settings],
        "guide": [type(guide).__name__, guide.config()],
        "adapter": [[name, [*tensor.shape]] for name, tensor in learned(model, guide).items()],
        **{f"base model's {name}": value for name, value in base.items()},
        "training data": _digest(data),
        "validation data": None if validation is None else _digest(validation),
        "number of processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
    }
    return {name: json.dumps(thing) for name, thing in things.items()}


def _described(prior: Any) -> list[Any]:
    # A function of the user's own has a name at most.
    config = prior.config() if hasattr(prior, "config") else None
    return [getattr(prior, "__qualname__", type(prior).__qualname__), config]


def _digest(data: Dataset) -> str:
    digest = hashlib.sha256()
    for row in data:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()
