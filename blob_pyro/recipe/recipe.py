"""The settings of a fine-tuning run, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from blob_pyro.infer.kl_weight import Schedule, rescaled_num_batches
from blob_pyro.networks.pooling import Pooling
from blob_pyro.recipe.method import Objective
from blob_pyro.recipe.methods import find_method
from blob_pyro.settings import Settings, unknown_name
from blob_pyro.training.config import TrainingConfig

if TYPE_CHECKING:
    import torch

    from blob_pyro.infer import ReweightedTrace_ELBO
    from blob_pyro.tasks import Scoring

Cycle = Literal["epoch", "rescaled"]
CausalScoring = Literal["options", "letters"]
# Far from the seeds that a person gives, one after the other.
_MEMBER_STRIDE = 1000
# A start may be a little wider than the prior, as some that were tried.
_WIDEST = 1.25


class Recipe(Settings):
    r"""Everything that decides a fine-tuning run beside the base model and the data.

    Raises
    ------
    ValueError
        If a setting is unknown, a value out of its range, or two settings exclude each other.

    Examples
    --------
    >>> recipe = Recipe(method="ens", options={"num_members": 2})
    >>> [(start.method, start.training.seed) for start in recipe.start_recipes()]
    [('mle', 0), ('mle', 1000)]
    """

    method: str = "blob"
    """How to be Bayesian, a name of ``blob_pyro.recipe.METHODS``.  ``blob`` learns mean and
    variance of each weight, ``mle`` is plain LoRA, ``map`` adds the prior's penalty to it."""

    start: str | None = None
    """Name of the method whose fit this method starts from; None for the usual one."""

    options: Mapping[str, Any] = Field(default_factory=dict)
    """The method's own settings."""

    rank: int = Field(default=8, ge=1)
    """Rank of the adapter, ``r`` of ``peft.LoraConfig``."""

    alpha: int = Field(default=16, ge=1)
    """``lora_alpha`` of ``peft.LoraConfig``."""

    target_modules: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """Layers to adapt; None takes PEFT's own for the architecture."""

    latent_layers: Annotated[str, Field(pattern=r"^last:[1-9]\d*$")] | None = None
    """``last:8`` adapts the last eight layers only, and all draws share the pass through the layers
    below; None adapts all."""

    dropout: float | None = Field(default=None, ge=0, lt=1)
    """``lora_dropout`` of the adapter; None for the method's own: 0.1 for ``mcd``, else 0."""

    scoring: CausalScoring = "options"
    """How a causal LM answers.  ``options`` takes the likelihood of an option's text, or of the
    token that names a class.  ``letters`` lists the options in the prompt and takes the likelihood
    of their letters.  A classification head needs neither."""

    pooling: Pooling = "auto"
    """What an encoder's head reads.  It is the ``mean`` of the token vectors, or what the
    architecture's own ``head`` reads; ``auto`` for the mean if the model's files say so."""

    logit_temperature: float = Field(default=1.0, gt=0)
    """Logits are divided by it, in training and prediction.  A value above 1 helps if the base
    model is overconfident."""

    prior_scale: float = Field(default=0.2, gt=0)
    """Standard deviation of the prior over ``A``."""

    init_scale: float | None = Field(default=None, gt=0)
    """Largest standard deviation of the posterior at the start; None for the prior's (``bbb``: a
    twentieth of it, ``ivon``: half)."""

    kl_scale: float | None = Field(default=0.05, ge=0)
    r"""Weight of the KL divergence; below 1 the posterior is a cold one.  None takes N / M, as the
    paper's code does in effect: it adds :math:`\lambda_i KL` to a batch's mean loss."""

    schedule: Schedule = "uniform"
    """How the KL is spread over a cycle of M batches."""

    cycle: Cycle = "epoch"
    """M is the number of batches of an epoch, or that of the paper's code,
    ``blob_pyro.infer.rescaled_num_batches``."""

    training: TrainingConfig = TrainingConfig()
    """Steps, rates, batch size and seed."""

    @model_validator(mode="after")
    def _method_fits(self) -> Self:
        method = find_method(self.method)
        method.chosen_options(self.options)
        if self.start is not None:
            find_method(self.start)
            if method.starts_from is None:
                raise ValueError(
                    f"start={self.start!r}: the method {self.method!r} is trained from the base "
                    "model; leave start out"
                )
            if method.name == "distilled" and find_method(self.start).is_point:
                raise ValueError(
                    f"start={self.start!r} has no draws that a student could learn from; start "
                    "from a method that draws, such as 'blob' or 'ens'"
                )
        # Of ScalaBL it is that of the length of a direction, not of a weight.
        if self.start_scale > _WIDEST * self.prior_scale and self.method != "scalabl":
            raise ValueError(
                f"init_scale={self.init_scale} is wider than the prior's {self.prior_scale}. It is "
                "a standard deviation, and no longer its square root: give 0.09 in place of 0.3"
            )
        return self

    def changed(self, **settings: Any) -> Self:
        """Give the recipe with other settings: its own, those of ``training``, or ``options.NAME``.

        Raises
        ------
        ValueError
            If there is no setting of that name, or a value is wrong.

        Examples
        --------
        >>> Recipe().changed(rank=4, num_steps=10).training.num_steps
        10
        """
        own: dict[str, Any] = {}
        training: dict[str, Any] = {}
        options: dict[str, Any] = {}
        for name, value in settings.items():
            group, _, inner = name.rpartition(".")
            if group == "options":
                options[inner] = value
            elif group == "training" or (not group and name in TrainingConfig.model_fields):
                training[inner] = value
            elif name in type(self).model_fields:
                own[name] = value
            else:
                known = [*type(self).model_fields, *TrainingConfig.model_fields]
                raise ValueError(unknown_name(name, known))
        if training:
            own["training"] = own.get("training", self.training).changed(**training)
        if options:
            own["options"] = {**own.get("options", self.options), **options}
        return super().changed(**own)

    @property
    def method_options(self) -> Any:
        """The method's settings by name, defaults included."""
        return find_method(self.method).chosen_options(self.options)

    @property
    def start_scale(self) -> float:
        """Largest standard deviation of the posterior at the start, a number."""
        return self.prior_scale if self.init_scale is None else self.init_scale

    @property
    def needs_validation(self) -> bool:
        """Whether it needs examples that the fit has not seen, to stop by or to calibrate on."""
        return self.training.validate_every is not None or find_method(self.method).needs_validation

    def for_data(self, num_data: int, num_processes: int = 1) -> Recipe:
        """Give the recipe with everything filled in that follows from the size of the data.

        Parameters
        ----------
        num_data
            Number of training examples.
        num_processes
            How many processes share the work.
        """
        return self.changed(training=self.training.for_data(num_data, num_processes))

    @property
    def num_steps(self) -> int:
        """Gradient steps in all, those of the fits that it starts from included.

        Raises
        ------
        ValueError
            If they follow from the data: see :meth:`for_data`.
        """
        if starts := self.start_recipes():
            # SWAG goes on from its start by steps of its own.
            own = getattr(self.method_options, "num_steps", 0)
            own = self.training.total_steps if own is None else own
            return own + sum(start.num_steps for start in starts)
        trained = find_method(self.method).objective != "none"
        return self.training.total_steps if trained else 0

    def start_recipes(self) -> list[Recipe]:
        """Give the recipes of the fits that this one starts from; empty if it trains its own.

        They have this recipe's settings and seed, but for the further members of an ensemble.
        """
        method = find_method(self.method)
        if method.starts_from is None:
            return []
        start = self.changed(method=self.start or method.starts_from, start=None, options={})
        num_members = self.method_options.num_members if method.from_fits else 1
        return [start.member(number) for number in range(num_members)]

    def member(self, number: int) -> Recipe:
        """Give the same recipe with the seed of another member of an ensemble; 0 is this one."""
        return self.changed(seed=self.training.seed + _MEMBER_STRIDE * number)

    def scoring_of(self, network: torch.nn.Module) -> Scoring:
        """Say how a network answers under this recipe: by its head if it has one."""
        from blob_pyro.recipe.network import has_head

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
        from blob_pyro.infer import ReweightedTrace_ELBO

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


# The defaults; docs/defaults.md says what was tried.
SMALL = Recipe()

# What was published for a 7B model (BLoB, NeurIPS 2024, appendix B.1), on Llama's layers.
PAPER = Recipe(
    rank=8,
    alpha=16,
    target_modules=("q_proj", "v_proj", "lm_head"),
    prior_scale=0.2,
    # The paper's epsilon is the root of it, 0.05.
    init_scale=0.0025,
    kl_scale=None,
    schedule="blob",
    cycle="rescaled",
    training=TrainingConfig(
        num_steps=5000,
        batch_size=4,
        learning_rate=1e-4,
        head_learning_rate=None,
        kl_learning_rate=0.01,
        scale_updates="kl_optim",
        warmup_fraction=0.06,
        max_grad_norm=None,
    ),
)

RECIPES = {"small": SMALL, "paper": PAPER}
