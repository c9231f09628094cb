"""What a method of being Bayesian about a LoRA adapter is, and the settings of single ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from blob_pyro.settings import Settings

if TYPE_CHECKING:
    from blob_pyro.guides import LoraGuide
    from blob_pyro.lora import Latent
    from blob_pyro.models import Classifier
    from blob_pyro.recipe.recipe import Recipe
    from blob_pyro.recipe.run import Program
    from blob_pyro.training.steps import MakeSteps

    MakeGuide = Callable[[Classifier, Recipe], LoraGuide]
    FromFit = Callable[..., Program]
    MakeStepRule = Callable[[Recipe], MakeSteps]
    FromFits = Callable[[Iterable[Program]], Program]

Objective = Literal["likelihood", "elbo", "none"]


def point_estimate(model: Classifier, recipe: Recipe) -> LoraGuide:
    """Make the guide of plain LoRA."""
    from blob_pyro.guides import PointEstimateGuide

    return PointEstimateGuide(model)


@dataclass(frozen=True)
class Method:
    """One way of being Bayesian about a LoRA adapter: a guide, and how to fit it.

    A method trains a guide (``guide``, ``latent``, ``objective``), or starts from the fit of
    another method (``starts_from``).  ``from_fit`` then makes the posterior from the fit.

    Parameters
    ----------
    name
        What ``Recipe.method``, ``--method`` and the benchmark's files call it.
    guide
        Makes the guide that is trained, from the model and the recipe.
    latent
        Which matrices its model makes latent.
    objective
        What training descends: ``"likelihood"``; ``"elbo"``, with the KL divergence, that of a
        point being minus the log prior density; or ``"none"``, and it is not trained.
    flipout
        Whether its guide's noise may have its signs flipped per example.
    dropout
        PEFT's ``lora_dropout`` unless the recipe says otherwise.
    starts_from
        Name of the method whose fit it starts from; None to train a guide of its own.
    from_fit
        Function of ``(model, guide, data, collator, recipe, **run)``, giving the model and guide
        that predict; ``data`` are the training examples.  It may change what it gets.  ``run`` are
        keywords of :func:`blob_pyro.training.fit`, for one that takes gradient steps.
    from_fits
        In the place of ``from_fit``: function of several programs of ``starts_from``, fitted with
        different seeds, which come one by one.  Their number is the option ``num_members``.
    needs_head
        Whether it needs a network with a head, where a causal LM would answer in words.
    needs_validation
        Whether ``from_fit`` takes validation examples in place of the training examples.
    steps
        Makes the step rule of :func:`blob_pyro.training.fit` from the recipe; None for its default.
    options
        The method's own settings: a class of them.
    is_point
        Whether it has no draws.

    Examples
    --------
    >>> map_of_B_too = Method("map_b", latent=("A", "B"), objective="elbo")
    >>> map_of_B_too.guide.__name__
    'point_estimate'
    """

    name: str
    guide: MakeGuide = point_estimate
    latent: Latent = ("A",)
    objective: Objective = "none"
    flipout: bool = False
    dropout: float = 0.0
    starts_from: str | None = None
    from_fit: FromFit | None = None
    from_fits: FromFits | None = None
    needs_head: bool = False
    needs_validation: bool = False
    steps: MakeStepRule | None = None
    options: type[Settings] = Settings
    is_point: bool = False

    def chosen_options(self, given: Mapping[str, Any]) -> Any:
        """Give all options, those that the user gave in the place of the defaults.

        Raises
        ------
        ValueError
            If an option is unknown, not of its type or out of its range.
        """
        try:
            return self.options(**given)
        except ValueError as error:
            raise ValueError(f"options of method {self.name!r}: {error}") from error


class EnsembleOptions(Settings):
    """Of ``ens``."""

    num_members: int = Field(default=3, ge=1)
    """Number of fits, each from its own seed."""


class LaplaceOptions(Settings):
    """Of ``lap``."""

    max_rank: int = Field(default=10, ge=1)
    """Number of eigenpairs that are kept of each factor, at most."""

    prior_precision: Annotated[float, Field(gt=0)] | Literal["marginal_likelihood"] | None = None
    """One over the prior's variance; None takes that of ``prior_scale``, ``marginal_likelihood``
    chooses it from the data."""

    predictive: Literal["linearised", "probit", "network"] = "linearised"
    """How to predict: by draws of the ``linearised`` network, by its ``probit`` formula, or by
    draws of the ``network`` itself."""


class SWAGOptions(Settings):
    """Of ``swag``."""

    learning_rate: float = Field(default=0.02, gt=0)
    """Rate of the SGD whose path is averaged."""

    num_steps: int = Field(default=200, ge=1)
    """Steps of the path."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of the SGD."""

    collect_every: int = Field(default=4, ge=1)
    """Steps between two weights that are collected."""

    num_deviations: int = Field(default=20, ge=2)
    """Deviations that are kept for the low-rank covariance."""

    @model_validator(mode="after")
    def _enough_steps(self) -> Self:
        collected = self.num_steps // self.collect_every
        if collected < self.num_deviations:
            raise ValueError(
                f"num_steps={self.num_steps} with collect_every={self.collect_every} collect "
                f"{collected} weights but num_deviations={self.num_deviations}; take at least "
                f"{self.num_deviations * self.collect_every} steps, or fewer deviations"
            )
        return self


class IVONOptions(Settings):
    """Of ``ivon``."""

    learning_rate: float = Field(default=0.1, gt=0)
    """Peak rate of IVON."""

    beta2: float = Field(default=0.9999, ge=0, lt=1)
    """Share of the running Hessian that stays at a step."""

    clip_radius: float = Field(default=0.02, gt=0)
    """Bound on each entry of a Newton step, before the rate."""


class TFBOptions(Settings):
    """Of ``tfb``."""

    tolerance: float = Field(default=0.01, gt=0)
    """Relative rise of the loss that the largest scale may cause."""

    num_samples: int = Field(default=10, ge=1)
    """Draws that the loss is averaged over."""


class DistilledOptions(Settings):
    """Of ``distilled``."""

    num_samples: int = Field(default=10, ge=2)
    """Draws of the start, whose probabilities are taught."""

    num_steps: int | None = Field(default=None, ge=1)
    """Steps of the student; None for as many as its start takes."""


class TemperatureOptions(Settings):
    """Of ``temperature``."""

    per_class: bool = False
    """One temperature for each class instead of one for all."""

    num_samples: int = Field(default=10, ge=0)
    """Draws whose average is calibrated; 0 for the posterior mean."""
