"""From a base model and a task to a fitted posterior: the settings, and putting them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import pyro
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blob_pyro.guides import LoraGuide, LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO, Schedule, rescaled_num_batches
from blob_pyro.models import Classifier, LabelTokenClassifier, OptionLikelihood
from blob_pyro.tasks import MultipleChoiceTask, Task, collator_for, label_token_ids
from blob_pyro.training import StepRecord, TrainingConfig, fit

Cycle = Literal["epoch", "rescaled"]
Method = Literal["blob", "map", "mle"]


@dataclass(frozen=True)
class Recipe:
    r"""Everything that decides a fine-tuning run beside the base model and the data.

    Parameters
    ----------
    method
        ``"blob"`` learns mean and variance of each weight; ``"mle"`` is plain LoRA; ``"map"`` is
        plain LoRA with the prior's penalty, weighted by ``kl_scale``.
    rank, alpha, target_modules
        The adapter, as in ``peft.LoraConfig``.
    prior_scale
        Standard deviation of the prior over ``A``.
    init_scale
        Root of the posterior's standard deviation at the start.
    kl_scale
        Weight of the KL divergence; below 1 the posterior is a cold one.  None takes N / M, as the
        paper's code does in effect: it adds :math:`\lambda_i KL` to a batch's mean loss.
    schedule
        How the KL is spread over a cycle of M batches.
    cycle
        ``"epoch"``: M is the number of batches of an epoch; ``"rescaled"``: that of the paper's
        code, :func:`blob_pyro.infer.rescaled_num_batches`.
    training
        Steps, rates, batch size and seed.

    Raises
    ------
    ValueError
        If a name is unknown or the rank below 1.
    """

    method: Method = "blob"
    rank: int = 8
    alpha: int = 16
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    prior_scale: float = 0.2
    init_scale: float = 0.35
    kl_scale: float | None = 1e-3
    schedule: Schedule = "uniform"
    cycle: Cycle = "epoch"
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        for name, known in (("method", Method), ("cycle", Cycle), ("schedule", Schedule)):
            value = getattr(self, name)
            if value not in get_args(known):
                raise ValueError(f"{name}={value!r} is unknown; use one of {[*get_args(known)]}")
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1")

    def fine_tune(
        self,
        base_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        data: Dataset,
        *,
        validation: Dataset | None = None,
        on_step: Callable[[StepRecord], None] | None = None,
    ) -> tuple[Classifier, LoraGuide, list[StepRecord]]:
        """Add an adapter to a causal LM, make it Bayesian and fit it to a task.

        Parameters
        ----------
        base_model
            Network without adapter; changed in place.
        tokenizer
            Its tokenizer.
        task
            Texts with a class, which the next token names; or questions, whose options are scored.
        data
            The task's training examples.
        validation
            Other examples of the task, for early stopping; see :func:`blob_pyro.training.fit`.
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
        # Adapter, guide, noise and batches all follow from the one seed.
        pyro.set_rng_seed(self.training.seed)
        net = get_peft_model(base_model, self._lora_config())
        model = self._model(net, tokenizer, task, len(data))
        guide = self._guide(model)
        records = fit(
            model,
            guide,
            self._elbo(len(data)),
            data,
            collator_for(task, tokenizer),
            # A point has no noise whose signs could be flipped.
            replace(self.training, flipout=self.training.flipout and self.method == "blob"),
            validation=validation,
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

    def _model(
        self, net: PeftModel, tokenizer: PreTrainedTokenizerBase, task: Task, num_data: int
    ) -> Classifier:
        if isinstance(task, MultipleChoiceTask):
            return OptionLikelihood(net, task.num_options, num_data, self.prior_scale)
        tokens = label_token_ids(tokenizer, task.class_names)
        return LabelTokenClassifier(net, tokens, num_data, self.prior_scale)

    def _guide(self, model: Classifier) -> LoraGuide:
        if self.method == "blob":
            return LowRankGaussianGuide(model, self.init_scale)
        return PointEstimateGuide(model)

    def _elbo(self, num_data: int) -> ReweightedTrace_ELBO:
        batch_size = self.training.batch_size
        if self.cycle == "epoch":
            num_batches = math.ceil(num_data / batch_size)
        else:
            num_batches = rescaled_num_batches(num_data, batch_size)
        kl_scale = num_data / num_batches if self.kl_scale is None else self.kl_scale
        return ReweightedTrace_ELBO(
            num_batches,
            self.schedule,
            kl_scale=0.0 if self.method == "mle" else kl_scale,
            per_datum=True,
        )


# Chosen for a small model and a few hundred texts; docs/recipe.md says what was tried.
SMALL = Recipe(training=TrainingConfig(num_steps=200, batch_size=4))

# What was published for a 7B model (BLoB, NeurIPS 2024, appendix B.1), on Llama's layers.
PAPER = Recipe(
    rank=8,
    alpha=16,
    target_modules=("q_proj", "v_proj", "lm_head"),
    prior_scale=0.2,
    init_scale=0.05,
    kl_scale=None,
    schedule="blob",
    cycle="rescaled",
    training=TrainingConfig(
        num_steps=5000,
        batch_size=4,
        learning_rate=1e-4,
        kl_learning_rate=0.01,
        spread_updates="kl_optim",
        warmup_fraction=0.06,
        max_grad_norm=None,
    ),
)

RECIPES = {"small": SMALL, "paper": PAPER}


def torch_dtype(name: Literal["float32", "bf16"]) -> torch.dtype:
    """Give the dtype of the base model's weights for the command line's ``--dtype``."""
    return {"float32": torch.float32, "bf16": torch.bfloat16}[name]


def task_record(task: Task) -> dict[str, Any]:
    """Give what prediction needs to know of a task, as JSON values."""
    if isinstance(task, MultipleChoiceTask):
        return {"name": task.name, "kind": "questions"}
    return {
        "name": task.name,
        "kind": "texts",
        "class_names": list(task.class_names),
        "prompt": task.prompt,
    }
