"""From a base model and a task to a fitted posterior: the settings, and putting them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import pyro
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blob_pyro.guides import LoraGuide, LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO, Schedule, rescaled_num_batches
from blob_pyro.likelihood import has_head, lora_config, make_likelihood
from blob_pyro.models import Classifier
from blob_pyro.tasks import Scoring, Task, collator_for
from blob_pyro.training import StepRecord, TrainingConfig, fit

Cycle = Literal["epoch", "rescaled"]
Method = Literal["blob", "map", "mle"]
CausalScoring = Literal["options", "letters"]


@dataclass(frozen=True)
class Recipe:
    r"""Everything that decides a fine-tuning run beside the base model and the data.

    Parameters
    ----------
    method
        ``"blob"`` learns mean and variance of each weight; ``"mle"`` is plain LoRA; ``"map"`` is
        plain LoRA with the prior's penalty, weighted by ``kl_scale``.
    rank, alpha, target_modules
        The adapter, as in ``peft.LoraConfig``; ``target_modules=None`` takes PEFT's own layers for
        the architecture.
    scoring
        How a causal LM answers: ``"options"``, questions by the likelihood of an option's text and
        texts by the token that names the class; ``"letters"``, by the letter of an option or class
        that the prompt lists.  A classification head needs neither.
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
    target_modules: tuple[str, ...] | None = None
    scoring: CausalScoring = "options"
    prior_scale: float = 0.2
    init_scale: float = 0.35
    kl_scale: float | None = 1e-3
    schedule: Schedule = "uniform"
    cycle: Cycle = "epoch"
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        known_names = (
            ("method", Method),
            ("cycle", Cycle),
            ("schedule", Schedule),
            ("scoring", CausalScoring),
        )
        for name, known in known_names:
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
        on_step: Callable[[StepRecord], None] | None = None,
    ) -> tuple[Classifier, LoraGuide, list[StepRecord]]:
        """Add an adapter to a network, make it Bayesian and fit it to a task.

        Parameters
        ----------
        base_model
            Causal LM or network with a classification head, without adapter; changed in place.
        tokenizer
            Its tokenizer.
        task
            Texts with a class, or questions with options.
        data
            The task's training examples.
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
        config = lora_config(base_model, self.rank, self.alpha, self.target_modules)
        scoring = self.scoring_of(base_model)
        net = get_peft_model(base_model, config)
        model = make_likelihood(net, tokenizer, task, scoring, len(data), self.prior_scale)
        guide = self._guide(model)
        records = fit(
            model,
            guide,
            self._elbo(len(data)),
            data,
            collator_for(task, tokenizer, scoring),
            # A point has no noise whose signs could be flipped.
            replace(self.training, flipout=self.training.flipout and self.method == "blob"),
            on_step=on_step,
        )
        return model, guide, records

    def scoring_of(self, network: PreTrainedModel) -> Scoring:
        """Say how a network answers under this recipe: by its head if it has one."""
        return "head" if has_head(network) else self.scoring

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


def torch_dtype(name: str) -> torch.dtype:
    """Give the dtype of the base model's weights by its name, ``bf16`` for short.

    Raises
    ------
    ValueError
        If it is neither float32 nor bfloat16.

    Examples
    --------
    >>> torch_dtype("bf16")
    torch.bfloat16
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16}
    if name not in known:
        raise ValueError(f"dtype {name!r} is unknown; use float32 or bfloat16")
    return known[name]
