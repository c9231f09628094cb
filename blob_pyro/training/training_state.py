"""Everything that a run has become, as one nested state."""

from __future__ import annotations

import math
from dataclasses import astuple, fields
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from blob_pyro.guides import LoraGuide
from blob_pyro.models import BayesianLora
from blob_pyro.training.learned import copy_learned, restore_learned
from blob_pyro.training.random_state import random_state, restore_random_state
from blob_pyro.training.step_record import StepRecord
from blob_pyro.training.steps import Steps
from blob_pyro.training.validation import Validation


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
            "records": _as_tensor(self.records),
            "learned": copy_learned(self._model, self._guide),
            "steps": self._steps.state_dict(),
            "validation": None if self._validation is None else self._validation.state_dict(),
            "random": gather_object([random_state(self._accelerator.device)]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state, bit for bit."""
        self.records[:] = _as_records(state["records"])
        restore_learned(self._model, self._guide, state["learned"])
        self._steps.load_state_dict(state["steps"])
        if self._validation is not None:
            self._validation.load_state_dict(state["validation"])
        mine = state["random"][self._accelerator.process_index]
        restore_random_state(mine, self._accelerator.device)


def _as_tensor(records: list[StepRecord]) -> torch.Tensor:
    rows = [
        [math.nan if value is None else value for value in astuple(record)] for record in records
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _as_records(rows: torch.Tensor) -> list[StepRecord]:
    names = [field.name for field in fields(StepRecord)]
    terms: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in rows.tolist()]
    for term in terms:
        term["step"] = int(term["step"])
        if math.isnan(term["validation_nll"]):
            term["validation_nll"] = None
    return [StepRecord(**term) for term in terms]
