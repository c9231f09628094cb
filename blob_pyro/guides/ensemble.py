"""A mixture of fitted guides: a deep ensemble, of points or of any posteriors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Self, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn
from typing_extensions import override

from blob_pyro.guides.hyper_posterior import HyperPosterior
from blob_pyro.guides.lora_guide import Draw, LoraGuide, find_guide
from blob_pyro.guides.site_parameters import SiteParameters
from blob_pyro.lora import Latent, LoraSite
from blob_pyro.models import BayesianLora
from blob_pyro.poutine import taking_turns

MEMBER_SITE = "ensemble_member"


@dataclass(frozen=True)
class SiteBesidePoint(LoraSite):
    """A site of ``A`` whose ``B`` is a member's own, whatever the network last ran with."""

    point: torch.Tensor | None = None

    @property
    @override
    def lora_B(self) -> torch.Tensor:
        return super().lora_B if self.point is None else self.point


@dataclass(frozen=True)
class SomeLatents:
    """A model as a guide sees it that covers some of its matrices only.

    Parameters
    ----------
    model
        A model with ``latent=("A", "B")``.
    latent
        The matrices that the guide covers.
    points
        Site name to value, for all other sites.
    """

    model: BayesianLora
    latent: Latent
    points: SiteParameters

    @property
    def sites(self) -> dict[str, LoraSite]:
        """The sites that are covered, beside the points of their layers."""
        points = dict(self.points.items())
        return {
            name: SiteBesidePoint(site.layer, site.adapter, site.matrix, points.get(_beside(name)))
            for name, site in self.model.sites.items()
            if site.matrix in self.latent
        }

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        return self.model.training

    def sample_latents(self) -> dict[str, torch.Tensor]:
        """Make the covered sites' sample statements under the prior."""
        return self.model.sample_latents(self.sites)


class EnsembleMember(nn.Module):
    """A guide of some matrices, and points for the rest.

    Parameters
    ----------
    guide
        Covers the sites of a :class:`SomeLatents`.
    points
        Site name to value, for all other sites.
    heads
        What the member trained beside its matrices, by the names of the model's ``heads``.
    latent
        The matrices that ``guide`` covers.
    """

    def __init__(
        self, guide: LoraGuide, points: SiteParameters, heads: SiteParameters, latent: Latent
    ) -> None:
        super().__init__()
        self.guide = guide
        self.points = points
        self.heads = heads
        self.latent = latent

    @classmethod
    def from_config(cls, model: BayesianLora, config: dict[str, Any]) -> Self:
        """Make a member anew from :meth:`config`, at the model's own weights."""
        latent = tuple(config["latent"])
        points = SiteParameters(
            {
                name: site.projection.initial_weight
                for name, site in model.sites.items()
                if site.matrix not in latent
            }
        )
        view = cast(BayesianLora, SomeLatents(model, latent, points))
        guide = find_guide(config["class"]).from_config(view, config["arguments"])
        places = model.heads.items()
        own = {name: module.get_parameter(leaf) for name, (_, module, leaf) in places}
        return cls(guide, points, SiteParameters(own), latent)

    def config(self) -> dict[str, Any]:
        """Give class, arguments and matrices of the guide, as JSON values."""
        return member_config(self.guide, self.latent)

    def _values(self) -> dict[str, torch.Tensor]:
        return _copies(self.points)

    def forward(self) -> dict[str, torch.Tensor]:
        """Draw every site, and bring the member's head along."""
        return self.guide() | self._values() | _copies(self.heads)

    def mean(self) -> dict[str, torch.Tensor]:
        """Site name to mean."""
        return self.guide.mean() | self._values()

    def scale(self) -> dict[str, torch.Tensor]:
        """Site name to standard deviation; zero for points."""
        zeros = {name: torch.zeros_like(value) for name, value in self._values().items()}
        return self.guide.scale() | zeros

    def weight_moments(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of a layer's weight update, see :class:`LoraGuide`."""
        if "B" in self.latent:
            return self.guide.weight_moments(name)
        left = self.guide.sites[name].scaling * self._values()[_beside(name)]
        with torch.no_grad():
            variance = self.guide.variance_of_update(name, left)
        return left @ self.guide.mean()[name], variance.sqrt()


def _copies(parameters: SiteParameters) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in parameters.items()}


def member_config(guide: LoraGuide, latent: Latent) -> dict[str, Any]:
    """Give what :meth:`EnsembleMember.from_config` makes a member of, as JSON values."""
    return {"class": type(guide).__name__, "arguments": guide.config(), "latent": list(latent)}


def _beside(name: str) -> str:
    """Give the name of the site of ``B`` in the layer of a site of ``A``."""
    return name.replace(".lora_A.", ".lora_B.")


class EnsembleGuide(LoraGuide):
    r"""The mixture :math:`q(A, B) = \frac{1}{E} \sum_e q_e(A, B)` of E fitted guides.

    :func:`blob_pyro.posthoc.ensemble` makes one.  A draw is a member's draw, its head included, so
    averaging probabilities over draws averages the members'; ``posterior_draws`` takes the members
    in turn, and K draws fall evenly on them.  There is nothing left to train.

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
        if not members:
            raise ValueError("an ensemble needs at least one member; fit some programs first")
        super().__init__(model)
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
        if self.model.heads:
            raise ValueError(
                "each member of this ensemble has a head, which is not a site of the model, so "
                "Pyro's own Predictive would use one head for all; use posterior_predictive"
            )
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
        """Mean of the mixture: the average of the members' weights, which is not a member.

        The network's own head is the average of theirs.
        """
        return _average([member.mean() for member in self._members()])

    @override
    def site_mean(self, name: str) -> torch.Tensor:
        return self.mean()[name]

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        mean, members = self.mean(), [(each.mean(), each.scale()) for each in self._members()]
        spreads = [
            {name: scales[name].square() + (means[name] - mean[name]).square() for name in mean}
            for means, scales in members
        ]
        return {name: variance.sqrt() for name, variance in _average(spreads).items()}

    @override
    def weight_moments(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        moments = [member.weight_moments(name) for member in self._members()]
        means, deviations = (torch.stack(each) for each in zip(*moments, strict=True))
        mean = means.mean(dim=0)
        return mean, (deviations.square() + (means - mean).square()).mean(dim=0).sqrt()

    @override
    def site_posterior(self, name: str) -> NoReturn:
        raise ValueError(
            f"site {name!r} has no distribution of its own in an ensemble; ask "
            "guide.members[number].guide"
        )

    @override
    def kl(self) -> NoReturn:
        raise ValueError(
            "the KL divergence of a mixture has no closed form, and an ensemble is not trained as "
            "a whole; fit its members, then call ensemble(programs)"
        )


def _average(parts: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in parts[0]}
