"""Early stopping: the posterior mean on held-out data, and the best state so far."""

import math
from functools import partial
from typing import Any, cast

import torch
from datasets import Dataset

from blob_pyro.guides import LoraGuide
from blob_pyro.models import Classifier
from blob_pyro.training.batches import Collator
from blob_pyro.training.config import TrainingConfig
from blob_pyro.training.sharded_predictive import sharded_predictive
from blob_pyro.training.step_record import copy_learned, learned, restore_learned


class Validation:
    """Scores the posterior mean on held-out data, and keeps the state that scored best.

    Parameters
    ----------
    model, guide
        The program that is trained.
    data
        Labelled examples that are not trained on.
    collator
        As in :func:`blob_pyro.training.fit`.
    config
        Says how often, and how many examples a forward pass.

    Raises
    ------
    ValueError
        If there are no data; when it scores, if the examples have no labels.
    FloatingPointError
        When it scores, if the NLL is not finite.
    """

    def __init__(
        self,
        model: Classifier,
        guide: LoraGuide,
        data: Dataset,
        collator: Collator,
        config: TrainingConfig,
    ) -> None:
        if len(data) == 0:
            raise ValueError("the validation data are empty; give at least one labelled example")
        self.model, self.guide = model, guide
        self.every, self.last = cast(int, config.validate_every), config.total_steps - 1
        self.best_nll = float("inf")
        self.best: dict[str, torch.Tensor] = {}
        # A seed of its own: training goes on with the noise that it would have had anyway.
        self._mean_predictive = partial(
            sharded_predictive, model, guide, data, collator, 0, 0, batch_size=config.batch_size
        )

    def due(self, step: int) -> bool:
        """Tell whether to score after a step (from 0): every so many, and after the last."""
        return (step + 1) % self.every == 0 or step == self.last

    def score(self) -> float:
        """Give the mean NLL (nats) of the posterior mean, and keep the state if it is the best."""
        predictive = self._mean_predictive()
        if "log_likelihood" not in predictive:
            raise ValueError("the validation data have no labels; give labelled examples")
        nll = -float(predictive["log_likelihood"].double().mean())
        if not math.isfinite(nll):
            raise FloatingPointError(
                f"the NLL of the validation data is {nll}; lower the learning rate"
            )
        if nll < self.best_nll:
            self.best_nll, self.best = nll, copy_learned(self.model, self.guide)
        return nll

    def restore_best(self) -> None:
        """Put the best state in the place of the last one."""
        restore_learned(self.model, self.guide, self.best)

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint needs: the best state so far."""
        return {"best_nll": self.best_nll, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best_nll = state["best_nll"]
        now = learned(self.model, self.guide)
        self.best = {name: tensor.to(now[name].device) for name, tensor in state["best"].items()}
