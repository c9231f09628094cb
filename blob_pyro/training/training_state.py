"""Everything that a run has become, as one nested state."""

import random
from dataclasses import astuple
from typing import Any

import numpy as np
import pyro
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from blob_pyro.guides import LoraGuide
from blob_pyro.models import BayesianLora
from blob_pyro.training.step_record import StepRecord, copy_learned, restore_learned
from blob_pyro.training.steps import Steps
from blob_pyro.training.validation import Validation


def separate_noise(accelerator: Accelerator) -> None:
    """Give every process but the first a random state of its own.

    Programs are made from one seed, so that every process starts from the same parameters; from
    then on, each has to draw its own weights, signs and dropout.
    """
    if accelerator.process_index > 0:
        pyro.set_rng_seed((torch.initial_seed() + accelerator.process_index) % 2**32)


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
