"""What a method of being Bayesian about a LoRA adapter is, as far as a run needs to know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from datasets import Dataset

from blob_pyro.guides import LoraGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.lora import Latent
from blob_pyro.models import Classifier
from blob_pyro.training import Collator, TrainingConfig

Objective = Literal["likelihood", "posterior", "none"]
Program = tuple[Classifier, LoraGuide]


class Settings(Protocol):
    """What a method may read of a :class:`blob_pyro.recipe.Recipe`."""

    @property
    def init_scale(self) -> float:
        """Root of the posterior's standard deviation at the start."""

    @property
    def training(self) -> TrainingConfig:
        """Steps, rates, batch size and seed."""

    @property
    def method_options(self) -> Mapping[str, Any]:
        """The method's own settings, which are its ``options`` changed as the user said."""

    def elbo(self, num_data: int, objective: Objective) -> ReweightedTrace_ELBO:
        """Make the objective of training, for a method that descends it in its ``finish``."""


MakeGuide = Callable[[Classifier, Settings], LoraGuide]
Finish = Callable[[Classifier, LoraGuide, Dataset, Collator, Settings], Program]
Combine = Callable[[Iterable[Program]], Program]


def point_estimate(model: Classifier, settings: Settings) -> LoraGuide:
    """Make the guide of plain LoRA."""
    return PointEstimateGuide(model)


@dataclass(frozen=True)
class Method:
    """One way of being Bayesian about a LoRA adapter: a guide, and how it comes to be fitted.

    A method is trained (``guide``, ``latent``, ``objective``), or starts from the fit of another
    one (``starts_from``), and may then be finished without gradient steps of
    :func:`blob_pyro.training.fit`.

    Parameters
    ----------
    name
        What ``Recipe.method``, ``--method`` and the benchmark's files call it.
    guide
        Makes the guide that is trained, from the model and the recipe's settings.
    latent
        Which matrices its model makes latent.
    objective
        What training descends: ``"likelihood"``; ``"posterior"``, with the KL divergence, that of a
        point being minus the log prior density; or ``"none"``, and it is not trained.
    flipout
        Whether its guide's noise may have its signs flipped per example.
    dropout
        PEFT's ``lora_dropout`` unless the recipe says otherwise.
    starts_from
        Name of the method whose fit it starts from; None to train a guide of its own.
    finish
        Function of (model, guide, data, collator, settings), giving the model and guide that
        predict; ``data`` are the training examples.  It may change what it gets.
    combine
        In the place of ``finish``: function of several programs of ``starts_from``, fitted with
        different seeds, which come one by one.  Their number is the option ``num_members``.
    held_out
        Whether ``finish`` takes examples that the fit has not seen.
    steps_in_finish
        Whether ``finish`` takes gradient steps, which no checkpoint holds.
    options
        The method's own settings, JSON values by name, with their defaults.
    check
        Function of all options as keywords that raises a ``ValueError`` for values out of range,
        before anything is fitted that ``finish`` would then refuse.

    Examples
    --------
    >>> map_of_B_too = Method("map_b", latent=("A", "B"), objective="posterior")
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
    finish: Finish | None = None
    combine: Combine | None = None
    held_out: bool = False
    steps_in_finish: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[..., None] | None = None

    def chosen_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Give all options, those that the user gave in the place of the defaults.

        Raises
        ------
        ValueError
            If an option is unknown, not of its default's type or out of its range.
        """
        for name, value in given.items():
            if name not in self.options:
                raise ValueError(
                    f"method {self.name!r} has no option {name!r}; it has {sorted(self.options)}"
                )
            _check_kind(f"option {name!r} of method {self.name!r}", value, self.options[name])
        chosen = {**self.options, **given}
        if self.check is not None:
            try:
                self.check(**chosen)
            except ValueError as error:
                raise ValueError(f"method {self.name!r}: {error}") from error
        return chosen


# What the types of settings are to somebody who writes YAML.
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}


def _check_kind(what: str, value: Any, default: Any) -> None:
    # A whole number will do for a fraction; True is no number.
    kinds = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        raise ValueError(f"{what} is {value!r}; give {KINDS[type(default)]}, such as {default}")
