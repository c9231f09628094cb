"""The settings of a fine-tuning run, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import torch

from blob_pyro.infer import ReweightedTrace_ELBO, Schedule, rescaled_num_batches
from blob_pyro.recipe.method import Objective
from blob_pyro.recipe.methods import find_method
from blob_pyro.recipe.network import has_head
from blob_pyro.tasks import Scoring
from blob_pyro.training import TrainingConfig

Cycle = Literal["epoch", "rescaled"]
CausalScoring = Literal["options", "letters"]
# Far from the seeds that a person gives, one after the other.
_MEMBER_STRIDE = 1000


@dataclass(frozen=True)
class Recipe:
    r"""Everything that decides a fine-tuning run beside the base model and the data.

    Parameters
    ----------
    method
        Name of one of :data:`blob_pyro.recipe.METHODS`: ``"blob"`` learns mean and variance of
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
        If a name is unknown, the rank below 1, the temperature not positive and finite, an option
        of the method out of its range, or a method that takes steps of its own is to be stopped
        early.

    Examples
    --------
    >>> recipe = Recipe(method="ens", options={"num_members": 2})
    >>> [(start.method, start.training.seed) for start in recipe.start_recipes()]
    [('mle', 0), ('mle', 1000)]
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
        if self.training.validate_every is not None and self._takes_own_steps:
            raise ValueError(
                f"validate_every={self.training.validate_every}: the method {self.method!r} takes "
                "steps of its own, which nothing stops early; leave validate_every out"
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

    def changed(self, **settings: Any) -> Recipe:
        """Give the recipe with other settings, its own or those of ``training``, by their names.

        Raises
        ------
        ValueError
            If there is no setting of that name.

        Examples
        --------
        >>> Recipe().changed(rank=4, num_steps=10).training.num_steps
        10
        """
        of_training = {field.name for field in fields(TrainingConfig)}
        known = of_training | {field.name for field in fields(self)}
        for name in settings:
            if name not in known:
                raise ValueError(f"{name!r} is no setting; use one of {sorted(known)}")
        inner = {name: settings.pop(name) for name in [*settings] if name in of_training}
        training = replace(settings.pop("training", self.training), **inner)
        return replace(self, training=training, **settings)

    @property
    def method_options(self) -> dict[str, Any]:
        """The method's settings by name, defaults included."""
        return find_method(self.method).chosen_options(self.options)

    @property
    def _takes_own_steps(self) -> bool:
        """Whether all its gradient steps are those of its ``finish``."""
        method = find_method(self.method)
        return method.steps_in_finish and method.starts_from is None

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
            See :class:`blob_pyro.recipe.Method`.
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
