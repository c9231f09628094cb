"""What a method of being Bayesian about a LoRA adapter is, as far as a run needs to know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from blob_pyro.settings import Settings

if TYPE_CHECKING:
    from datasets import Dataset

    from blob_pyro.guides import LoraGuide
    from blob_pyro.lora import Latent
    from blob_pyro.models import Classifier
    from blob_pyro.recipe.recipe import Recipe
    from blob_pyro.recipe.run import Program
    from blob_pyro.training import Collator

    MakeGuide = Callable[[Classifier, Recipe], LoraGuide]
    FromFit = Callable[[Classifier, LoraGuide, Dataset, Collator, Recipe], Program]
    FromFits = Callable[[Iterable[Program]], Program]

Objective = Literal["likelihood", "elbo", "none"]


def point_estimate(model: Classifier, recipe: Recipe) -> LoraGuide:
    """Make the guide of plain LoRA."""
    from blob_pyro.guides import PointEstimateGuide

    return PointEstimateGuide(model)


@dataclass(frozen=True)
class Method:
    """One way of being Bayesian about a LoRA adapter: a guide, and how it comes to be fitted.

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
        Function of (model, guide, data, collator, recipe), giving the model and guide that
        predict; ``data`` are the training examples.  It may change what it gets.
    from_fits
        In the place of ``from_fit``: function of several programs of ``starts_from``, fitted with
        different seeds, which come one by one.  Their number is the option ``num_members``.
    needs_validation
        Whether ``from_fit`` takes validation examples in place of the training examples.
    steps_after_fit
        Whether ``from_fit`` takes gradient steps, which no checkpoint holds.
    options
        The method's own settings: a class of them.

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
    needs_validation: bool = False
    steps_after_fit: bool = False
    options: type[Settings] = Settings

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
