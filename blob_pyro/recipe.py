"""From a base model and a task to a fitted posterior: the settings, and putting them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pyro
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blob_pyro.guides import LoraGuide, LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO, Schedule
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.tasks import PromptCollator, TextClassificationTask, label_token_ids
from blob_pyro.training import StepRecord, TrainingConfig, fit


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a fine-tuning run beside the base model and the data.

    Parameters
    ----------
    method
        ``"blob"`` learns mean and variance of each weight; ``"mle"`` is plain LoRA.
    rank, alpha, target_modules
        The adapter, as in ``peft.LoraConfig``.
    prior_scale
        Standard deviation of the prior over ``A``.
    init_scale
        Root of the posterior's standard deviation at the start.
    kl_scale
        Weight of the KL divergence; below 1 the posterior is a cold one.
    schedule
        How the KL is spread over an epoch's batches.
    training
        Steps, rates, batch size and seed.
    """

    method: Literal["blob", "mle"] = "blob"
    rank: int = 8
    alpha: int = 16
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    prior_scale: float = 0.2
    init_scale: float = 0.35
    kl_scale: float = 1e-3
    schedule: Schedule = "uniform"
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def fine_tune(
        self,
        base_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: TextClassificationTask,
        *,
        on_step: Callable[[StepRecord], None] | None = None,
    ) -> tuple[LabelTokenClassifier, LoraGuide, list[StepRecord]]:
        """Add an adapter to a causal LM, make it Bayesian and fit it to a task's training split.

        Parameters
        ----------
        base_model
            Network without adapter; changed in place.
        tokenizer
            Its tokenizer.
        task
            Data with the split ``train``.
        on_step
            See :func:`blob_pyro.training.fit`.

        Returns
        -------
        model, guide, records
            The fitted program and one record a step.

        Raises
        ------
        ValueError
            If a layer, label or number does not fit; the message says which.
        FloatingPointError
            If training diverges.
        """
        data: Dataset = task.splits["train"]
        # Adapter, guide, noise and batches all follow from the one seed.
        pyro.set_rng_seed(self.training.seed)
        net = get_peft_model(base_model, self._lora_config())
        tokens = label_token_ids(tokenizer, task.class_names)
        model = LabelTokenClassifier(net, tokens, len(data), self.prior_scale)
        guide = self._guide(model)
        records = fit(
            model,
            guide,
            self._elbo(len(data)),
            data,
            PromptCollator(tokenizer, task),
            self.training,
            on_step=on_step,
        )
        return model, guide, records

    def _lora_config(self) -> LoraConfig:
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=list(self.target_modules),
        )

    def _guide(self, model: LabelTokenClassifier) -> LoraGuide:
        if self.method == "mle":
            return PointEstimateGuide(model)
        return LowRankGaussianGuide(model, self.init_scale)

    def _elbo(self, num_data: int) -> ReweightedTrace_ELBO:
        return ReweightedTrace_ELBO(
            num_batches=math.ceil(num_data / self.training.batch_size),
            schedule=self.schedule,
            kl_scale=0.0 if self.method == "mle" else self.kl_scale,
            per_datum=True,
        )


def torch_dtype(name: Literal["float32", "bf16"]) -> torch.dtype:
    """Give the dtype of the base model's weights for the command line's ``--dtype``."""
    return {"float32": torch.float32, "bf16": torch.bfloat16}[name]


def task_record(task: TextClassificationTask) -> dict[str, Any]:
    """Give what prediction needs to know of a task, as JSON values."""
    return {"name": task.name, "class_names": list(task.class_names), "prompt": task.prompt}
