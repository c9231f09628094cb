"""A mixture of fitted guides: a deep ensemble, of points or of any posteriors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NoReturn, Self

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn
from typing_extensions import override

from blob_pyro.guides.hyper_posterior import HyperPosterior
from blob_pyro.guides.lora_guide import Draw, LoraGuide
from blob_pyro.guides.model_at_mean import Model, model_at_mean
from blob_pyro.guides.site_parameters import SiteParameters
from blob_pyro.models import BayesianLora, Classifier
from blob_pyro.posthoc.ensemble.member import EnsembleMember, FittedMember
from blob_pyro.poutine import taking_turns

MEMBER_SITE = "ensemble_member"


class EnsembleGuide(LoraGuide):
    r"""The mixture :math:`q(A, B) = \frac{1}{E} \sum_e q_e(A, B)` of E fitted guides.

    :func:`ensemble` makes one.  A draw is a member's draw, so averaging probabilities over draws
    averages the members'; ``posterior_draws`` takes the members in turn, and K draws fall evenly on
    them.  There is nothing left to train.

    Parameters
    ----------
    model
        A model with ``latent=("A", "B")``, since members have different ``B``.
    members
        At least one.

    Raises
    ------
    ValueError
        If there is no member.

    References
    ----------
    Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty Estimation
    using Deep Ensembles", NeurIPS 2017; Wang et al., "LoRA ensembles for large language model
    fine-tuning", 2023.
    """

    independent_entries: ClassVar[bool] = False

    def __init__(self, model: BayesianLora, members: Sequence[EnsembleMember]) -> None:
        super().__init__(model)
        if not members:
            raise ValueError("an ensemble needs at least one member; fit some programs first")
        # Each member has its own.
        self.M, self.hyper = SiteParameters({}), HyperPosterior({})
        self.members = nn.ModuleList(members)

    @classmethod
    @override
    def from_config(cls, model: BayesianLora, config: dict[str, Any]) -> Self:
        return cls(model, [EnsembleMember.from_config(model, each) for each in config["members"]])

    @override
    def config(self) -> dict[str, Any]:
        return {"members": [member.config() for member in self._members()]}

    def _members(self) -> list[EnsembleMember]:
        return [member for member in self.members if isinstance(member, EnsembleMember)]

    @override
    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        device = next(self.parameters()).device
        chances = dist.Categorical(logits=torch.zeros(len(self.members), device=device))
        chosen = pyro.sample(MEMBER_SITE, chances, infer={"is_auxiliary": True})
        with poutine.block():
            draws = [self._members()[index]() for index in chosen.flatten().tolist()]
        values = {}
        for name, first in draws[0].items():
            stacked = torch.stack([draw[name] for draw in draws])
            value = stacked.reshape(chosen.shape + first.shape)
            point = dist.Delta(value, validate_args=False, event_dim=first.dim())
            values[name] = pyro.sample(name, point)
        return values

    @override
    def draws(self, num_samples: int) -> list[Draw]:
        if num_samples == 0:
            return [self.mean()]
        members = self._members()
        # In turn: as many draws from each member, to within one.
        with taking_turns(), poutine.block(), torch.no_grad():
            return [members[number % len(members)]() for number in range(num_samples)]

    @override
    def mean(self) -> dict[str, torch.Tensor]:
        """Mean of the mixture: the average of the members' weights, which is no member."""
        return _average([member.mean() for member in self._members()])

    @override
    def site_mean(self, name: str) -> torch.Tensor:
        return self.mean()[name]

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        mean = self.mean()
        second = _average(
            [
                {name: scale.square() + means[name].square() for name, scale in scales.items()}
                for member in self._members()
                for means, scales in [(member.mean(), member.scale())]
            ]
        )
        return {
            name: (second[name] - mean[name].square()).clamp(min=0).sqrt() for name in self.sites
        }

    @override
    def weight_moments(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        moments = [member.weight_moments(name) for member in self._members()]
        means, deviations = (torch.stack(each) for each in zip(*moments, strict=True))
        mean = means.mean(dim=0)
        return mean, (deviations.square() + (means - mean).square()).mean(dim=0).sqrt()

    @override
    def site_posterior(self, name: str) -> NoReturn:
        raise ValueError(
            f"site {name!r} has no distribution of its own in an ensemble, where sites depend on "
            "the member; ask guide.members[number].guide"
        )

    @override
    def kl(self) -> NoReturn:
        raise ValueError(
            "the KL divergence of a mixture has no closed form, and an ensemble is not trained as "
            "a whole; fit its members, then call ensemble(programs)"
        )


def _average(parts: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in parts[0]}


def ensemble(programs: Iterable[tuple[Model, LoraGuide]]) -> tuple[Model, EnsembleGuide]:
    """Make one program of several that were fitted to the same data, such as with other seeds.

    Parameters
    ----------
    programs
        Pairs of model and guide over the same base network, one by one: an iterator may fit or
        load the next one when it is asked, in the network of the one before if it likes.

    Returns
    -------
    model, guide
        In the network of the last program, which is of no use by itself afterwards.

    Raises
    ------
    ValueError
        If there is no program, an adapter brings along a head, of which a network has only one, the
        temperatures or LoRA scalings of two programs differ, or a Laplace approximation predicts by
        its linearised model.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from torch import nn
    >>> from blob_pyro.guides import PointEstimateGuide
    >>> programs = []
    >>> for seed in range(2):
    ...     net = nn.Sequential(nn.Linear(4, 3))
    ...     model = BayesianLora(get_peft_model(net, LoraConfig(r=2, target_modules=["0"])), 10)
    ...     programs.append((model, PointEstimateGuide(model)))
    >>> model, guide = ensemble(programs)
    >>> len(guide.members), len(guide.draws(4))
    (2, 4)
    """
    fitted, last, scaling = [], None, {}
    for model, guide in programs:
        _check_no_head(model)
        _check_draws_are_of_the_network(guide)
        if last is not None:
            _check_same_temperature(last[0], model)
            _check_same_scaling(scaling, model)
        scaling = {name: site.scaling for name, site in model.sites.items()}
        fitted.append(FittedMember.of(model, guide))
        last = model, guide
    if last is None:
        raise ValueError("an ensemble needs at least one member; fit some programs first")
    model = model_at_mean(*last)
    return model, EnsembleGuide(model, [member.within(model) for member in fitted])


def _check_same_temperature(earlier: BayesianLora, model: BayesianLora) -> None:
    if not isinstance(earlier, Classifier) or not isinstance(model, Classifier):
        return
    one, other = earlier.temperature.tolist(), model.temperature.tolist()
    if one != other:
        raise ValueError(
            f"members have the temperatures {one} and {other}, and an ensemble has one for all of "
            "them; call ensemble(programs) before calibrate, which then fits it"
        )


def _check_same_scaling(earlier: dict[str, float], model: BayesianLora) -> None:
    for name, site in model.sites.items():
        if earlier.get(name, site.scaling) != site.scaling:
            raise ValueError(
                f"members scale their updates at {name!r} by {earlier[name]:g} and "
                f"{site.scaling:g}, and a network scales all of them alike; fit them with one "
                "lora_alpha and rank"
            )


def _check_draws_are_of_the_network(guide: LoraGuide) -> None:
    if guide.predictive != "network":
        raise ValueError(
            f"a member is a {type(guide).__name__} with predictive={guide.predictive!r}, "
            "but an ensemble's draws go through the network; make it with predictive='network', "
            "or average the members' predictions"
        )


def _check_no_head(model: BayesianLora) -> None:
    heads = [
        name
        for name, parameter in model.network.named_parameters()
        if parameter.requires_grad and "lora_" not in name
    ]
    if heads:
        raise ValueError(
            f"the adapter trains {heads[0]!r} too, and a network has only one of it while each "
            "member of an ensemble needs its own; use a likelihood without such a head "
            "(LabelTokenClassifier, OptionLikelihood), and no modules_to_save"
        )
