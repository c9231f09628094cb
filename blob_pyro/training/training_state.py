"""Everything that a run has become, as one nested state, and what makes it the same run."""

import hashlib
import json
import random
from dataclasses import astuple
from typing import Any

import numpy as np
import pyro
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.networks import base_identity
from blob_pyro.poutine import in_turn
from blob_pyro.training.config import TrainingConfig
from blob_pyro.training.step_record import StepRecord, copy_learned, learned, restore_learned
from blob_pyro.training.steps import Steps
from blob_pyro.training.validation import Validation


@in_turn()
def separate_noise(accelerator: Accelerator) -> None:
    """Give every process but the first a random state of its own.

    Programs are made from one seed, so that every process starts from the same parameters; from
    then on, each has to draw its own weights, signs and dropout.
    """
    if accelerator.process_index > 0:
        pyro.set_rng_seed((torch.initial_seed() + accelerator.process_index) % 2**32)


@in_turn()
def random_state(device: torch.device) -> dict[str, Any]:
    """Give the states, as tensors and JSON values; ``device`` is the one that noise is drawn on."""
    numpy_state = np.random.get_state(legacy=False)
    generator = numpy_state["state"]
    state = {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {**generator, "key": generator["key"].tolist()}},
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state()
    return state


@in_turn()
def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on with the noise from where :func:`random_state` was called."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"])


class TrainingState:
    """A run between two steps.

    Parameters
    ----------
    model, guide
        The program.
    steps
        Holds optimisers, schedules and the objective.
    validation
        Holds the best state so far; None without early stopping.
    accelerator
        Says which process this is.

    Attributes
    ----------
    records
        One for each step that was taken; as many say where in the data the run is.
    """

    def __init__(
        self,
        model: BayesianLora,
        guide: LoraGuide,
        steps: Steps,
        validation: Validation | None,
        accelerator: Accelerator,
    ) -> None:
        self.records: list[StepRecord] = []
        self._model, self._guide = model, guide
        self._steps, self._validation = steps, validation
        self._accelerator = accelerator

    def state_dict(self) -> dict[str, Any]:
        """Give the state, with the random states of all processes (all have to call)."""
        return {
            "records": [astuple(record) for record in self.records],
            "learned": copy_learned(self._model, self._guide),
            "steps": self._steps.state_dict(),
            "validation": None if self._validation is None else self._validation.state_dict(),
            "random": gather_object([random_state(self._accelerator.device)]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state, bit for bit."""
        self.records[:] = [StepRecord(*record) for record in state["records"]]
        restore_learned(self._model, self._guide, state["learned"])
        self._steps.load_state_dict(state["steps"])
        if self._validation is not None:
            self._validation.load_state_dict(state["validation"])
        mine = state["random"][self._accelerator.process_index]
        restore_random_state(mine, self._accelerator.device)


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
    # These change memory and time, not what is computed.
    settings = config.model_dump(exclude={"gradient_checkpointing", "compile"})
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
