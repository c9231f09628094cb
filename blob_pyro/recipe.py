"""From a base model and a task to a fitted posterior: the settings, and putting them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import pyro
import torch
from accelerate import Accelerator
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import ReweightedTrace_ELBO, Schedule, rescaled_num_batches
from blob_pyro.likelihood import has_head, lora_config, make_likelihood
from blob_pyro.methods import Objective, Program, find_method
from blob_pyro.models import Classifier
from blob_pyro.tasks import Scoring, Task, collator_for
from blob_pyro.training import CheckpointConfig, StepRecord, TrainingConfig, fit

Cycle = Literal["epoch", "rescaled"]
CausalScoring = Literal["options", "letters"]
# Far from the seeds that a person gives, one after the other.
_MEMBER_STRIDE = 1000
_HELD_OUT = 0.2


@dataclass(frozen=True)
class Recipe:
    r"""Everything that decides a fine-tuning run beside the base model and the data.

    Parameters
    ----------
    method
        Name of one of :data:`blob_pyro.methods.METHODS`: ``"blob"`` learns mean and variance of
        each weight; ``"mle"`` is plain LoRA; ``"map"`` is plain LoRA with the prior's penalty,
        weighted by ``kl_scale``; and so on.
    start
        Name of the method whose fit it starts from, for a method that starts from a fit; None for
        its usual one.
    options
        The method's own settings, see ``METHODS[method].options``.
    rank, alpha, target_modules
        The adapter, as in ``peft.LoraConfig``; ``target_modules=None`` takes PEFT's own layers for
        the architecture.
    dropout
        ``lora_dropout`` of the adapter; None for the method's own, which is 0 but for dropout.
    scoring
        How a causal LM answers: ``"options"``, questions by the likelihood of an option's text and
        texts by the token that names the class; ``"letters"``, by the letter of an option or class
        that the prompt lists.  A classification head needs neither.
    temperature
        Logits are divided by it, in training as in prediction.  Where a base model is surer than it
        should be (a small one, of the likelihood of options), a temperature above 1 lets the fit
        start from sensible probabilities.
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
        If a name is unknown, the rank below 1, or the temperature not positive and finite.
    """

    method: str = "blob"
    start: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    rank: int = 8
    alpha: int = 16
    target_modules: tuple[str, ...] | None = None
    dropout: float | None = None
    scoring: CausalScoring = "options"
    temperature: float = 1.0
    prior_scale: float = 0.2
    init_scale: float = 0.35
    kl_scale: float | None = 1e-3
    schedule: Schedule = "uniform"
    cycle: Cycle = "epoch"
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        method = find_method(self.method)
        method.chosen_options(self.options)
        if self.start is not None:
            find_method(self.start)
            if method.starts_from is None:
                raise ValueError(
                    f"start={self.start!r}: the method {self.method!r} is trained from the base "
                    "model; leave start out"
                )
        known_names = (("cycle", Cycle), ("schedule", Schedule), ("scoring", CausalScoring))
        for name, known in known_names:
            value = getattr(self, name)
            if value not in get_args(known):
                raise ValueError(f"{name}={value!r} is unknown; use one of {[*get_args(known)]}")
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be positive and finite")

    @property
    def method_options(self) -> dict[str, Any]:
        """The method's settings by name, defaults included."""
        return find_method(self.method).chosen_options(self.options)

    @property
    def takes_validation(self) -> bool:
        """Whether it needs examples that the fit has not seen, to stop by or to calibrate on."""
        return self.training.validate_every is not None or find_method(self.method).held_out

    @property
    def num_steps(self) -> int:
        """Gradient steps in all, those of the fits that it starts from included."""
        if starts := self.start_recipes():
            return sum(start.num_steps for start in starts)
        trained = find_method(self.method).objective != "none"
        return self.training.num_steps if trained else 0

    def start_recipes(self) -> list[Recipe]:
        """Give the recipes of the fits that this one starts from; empty if it trains its own.

        They have this recipe's settings and seed, but for the further members of an ensemble.
        """
        method = find_method(self.method)
        if method.starts_from is None:
            return []
        start = replace(self, method=self.start or method.starts_from, start=None, options={})
        num_members = self.method_options["num_members"] if method.combine else 1
        return [start.member(number) for number in range(num_members)]

    def member(self, number: int) -> Recipe:
        """Give the same recipe with the seed of another member of an ensemble; 0 is this one."""
        seed = self.training.seed + _MEMBER_STRIDE * number
        return replace(self, training=replace(self.training, seed=seed))

    def fine_tune(
        self,
        base_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        data: Dataset,
        *,
        validation: Dataset | None = None,
        checkpoints: CheckpointConfig | None = None,
        accelerator: Accelerator | None = None,
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
        validation
            Examples that the fit has not seen, for early stopping and for methods that calibrate
            on them; None takes a fifth of ``data`` where some are needed.
        checkpoints
            See :func:`blob_pyro.training.fit`.  A method that starts from several fits saves each
            in a folder of its own inside.
        accelerator, on_step
            See :func:`blob_pyro.training.fit`.

        Returns
        -------
        model, guide, records
            The fitted program and one record a step, those of the fits that it starts from first.

        Raises
        ------
        ValueError
            If a layer, label or number does not fit; the message says which.
        FloatingPointError
            If training diverges.
        """
        method = find_method(self.method)
        if self.takes_validation and validation is None:
            parts = data.train_test_split(test_size=_HELD_OUT, seed=self.training.seed)
            data, validation = parts["train"], parts["test"]
        last = validation if method.held_out and validation is not None else data
        records: list[StepRecord] = []
        how: dict[str, Any] = {
            "checkpoints": checkpoints,
            "accelerator": accelerator,
            "on_step": on_step,
        }
        if method.starts_from is None:
            program = self._train(base_model, tokenizer, task, data, validation, records, **how)
            if method.finish is not None:
                program = self.finish([program], tokenizer, task, last)
        else:
            starts = self._fit_starts(base_model, tokenizer, task, data, validation, records, **how)
            program = self.finish(starts, tokenizer, task, last)
        return *program, records

    def finish(
        self,
        starts: Iterable[Program],
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        data: Dataset,
    ) -> Program:
        """Make this method's posterior from fitted programs, without the fits.

        Parameters
        ----------
        starts
            The programs of :meth:`start_recipes`, one by one; they are changed in place.
        tokenizer, task
            As in :meth:`fine_tune`.
        data
            Training examples, or held-out ones if the method takes those.

        Returns
        -------
        model, guide
            The program that predicts.
        """
        method = find_method(self.method)
        pyro.set_rng_seed(self.training.seed)
        on_device = map(_on_device, starts)
        if method.combine is not None:
            return method.combine(on_device)
        if method.finish is None:
            raise ValueError(f"method {self.method!r} has nothing to finish; call fine_tune")
        model, guide = next(on_device)
        scoring = self.scoring_of(model.network.get_base_model())
        return method.finish(model, guide, data, collator_for(task, tokenizer, scoring), self)

    def _fit_starts(
        self,
        base_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        data: Dataset,
        validation: Dataset | None,
        records: list[StepRecord],
        checkpoints: CheckpointConfig | None,
        **how: Any,
    ) -> Iterator[Program]:
        """Fit the programs to start from, one after the other in the same network."""
        net: PeftModel | None = None
        for number, recipe in enumerate(self.start_recipes()):
            network = base_model if net is None else net.unload()
            model, guide, steps = recipe.fine_tune(
                network,
                tokenizer,
                task,
                data,
                validation=validation,
                checkpoints=checkpoints and checkpoints.of_member(number),
                **how,
            )
            records += steps
            yield model, guide
            net = model.network

    def _train(
        self,
        base_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        data: Dataset,
        validation: Dataset | None,
        records: list[StepRecord],
        accelerator: Accelerator | None,
        **how: Any,
    ) -> Program:
        method = find_method(self.method)
        # Adapter, guide, noise and batches all follow from the one seed.
        accelerator = accelerator or Accelerator()
        pyro.set_rng_seed(self.training.seed)
        dropout = method.dropout if self.dropout is None else self.dropout
        config = lora_config(base_model, self.rank, self.alpha, self.target_modules, dropout)
        scoring = self.scoring_of(base_model)
        net = get_peft_model(base_model, config)
        model = make_likelihood(
            net, tokenizer, task, scoring, len(data), self.prior_scale, method.latent
        )
        model.set_temperature(self.temperature)
        guide = method.guide(model, self)
        if method.objective == "none":
            return _on_device((model, guide))
        records += fit(
            model,
            guide,
            self.elbo(
                len(data),
                method.objective,
                self.training.examples_per_step(accelerator.num_processes),
            ),
            data,
            collator_for(task, tokenizer, scoring),
            replace(self.training, flipout=self.training.flipout and method.flipout),
            validation=None if self.training.validate_every is None else validation,
            accelerator=accelerator,
            **how,
        )
        return model, guide

    def scoring_of(self, network: torch.nn.Module) -> Scoring:
        """Say how a network answers under this recipe: by its head if it has one."""
        return "head" if has_head(network) else self.scoring

    def elbo(
        self, num_data: int, objective: Objective, examples_per_step: int | None = None
    ) -> ReweightedTrace_ELBO:
        """Make the objective of training.

        Parameters
        ----------
        num_data
            Number of training examples.
        objective
            See :class:`blob_pyro.methods.Method`.
        examples_per_step
            Size of the global batch; None for ``training.batch_size``.

        Returns
        -------
        ReweightedTrace_ELBO
            Per datum; ``"likelihood"`` leaves the KL out.
        """
        batch_size = examples_per_step or self.training.batch_size
        if self.cycle == "epoch":
            num_batches = math.ceil(num_data / batch_size)
        else:
            num_batches = rescaled_num_batches(num_data, batch_size)
        kl_scale = num_data / num_batches if self.kl_scale is None else self.kl_scale
        return ReweightedTrace_ELBO(
            num_batches,
            self.schedule,
            kl_scale=0.0 if objective == "likelihood" else kl_scale,
            per_datum=True,
        )


def _on_device(program: Program) -> Program:
    model, guide = program
    device = Accelerator().device
    return model.to(device), guide.to(device)


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
