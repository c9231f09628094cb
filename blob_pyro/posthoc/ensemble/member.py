"""One member of an ensemble: a fitted guide, and the matrices that were points beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import nn
from typing_extensions import override

from blob_pyro.guides.lora_guide import LoraGuide, find_guide
from blob_pyro.guides.site_parameters import SiteParameters
from blob_pyro.lora import Latent, LoraSite
from blob_pyro.models import BayesianLora


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
    latent
        The matrices that ``guide`` covers.
    """

    def __init__(self, guide: LoraGuide, points: SiteParameters, latent: Latent) -> None:
        super().__init__()
        self.guide = guide
        self.points = points
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
        return cls(guide, points, latent)

    def config(self) -> dict[str, Any]:
        """Give class, arguments and matrices of the guide, as JSON values."""
        return {
            "class": type(self.guide).__name__,
            "arguments": self.guide.config(),
            "latent": list(self.latent),
        }

    def _values(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.points.items()}

    def forward(self) -> dict[str, torch.Tensor]:
        """Draw every site."""
        return self.guide() | self._values()

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


def _beside(name: str) -> str:
    """Give the name of the site of ``B`` in the layer of a site of ``A``."""
    return name.replace(".lora_A.", ".lora_B.")


@dataclass(frozen=True)
class FittedMember:
    """What is kept of a fitted program while the next one is fitted in the same network.

    Parameters
    ----------
    config
        See :meth:`EnsembleMember.config`.
    state
        The guide's parameters by name.
    points
        Site name to value, for the matrices that the guide does not cover.
    """

    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    points: dict[str, torch.Tensor]

    @classmethod
    def of(cls, model: BayesianLora, guide: LoraGuide) -> Self:
        """Copy what is to be kept."""
        config = {
            "class": type(guide).__name__,
            "arguments": guide.config(),
            "latent": list(model.latent),
        }
        state = {name: value.detach().clone() for name, value in guide.state_dict().items()}
        points = {
            _beside(name): site.lora_B.detach().clone()
            for name, site in model.sites.items()
            if model.latent == ("A",)
        }
        return cls(config, state, points)

    def within(self, model: BayesianLora) -> EnsembleMember:
        """Make the member that covers a model's sites with these values."""
        member = EnsembleMember.from_config(model, self.config)
        member.guide.load_state_dict(self.state)
        for name, value in self.points.items():
            member.points[name].data.copy_(value)
        return member
