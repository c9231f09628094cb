"""The part of a guide that covers a hyper-prior's own sites."""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.autoguide.initialization import init_to_median
from torch import nn
from torch.distributions import biject_to

from blob_pyro.guides.site_parameters import SiteParameters
from blob_pyro.models import BayesianLora
from blob_pyro.poutine import Site, in_turn, sample_sites

# That of Pyro's AutoNormal, in unconstrained space.
_INIT_SCALE = 0.1


def hyper_sites(model: BayesianLora) -> dict[str, Site]:
    """Give the trace nodes of a model's latents that are no LoRA weight, in their order.

    Neither the trace of a caller nor the random state notices.
    """
    with in_turn(), poutine.block(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        trace = poutine.trace(model.sample_latents).get_trace()
    return {name: site for name, site in sample_sites(trace) if name not in model.sites}


class HyperPosterior(nn.Module):
    """Independent Gaussians in unconstrained space, mapped onto each site's support.

    For a half-normal hyper-prior this is a log-normal.

    Parameters
    ----------
    sites
        From :func:`hyper_sites`; each starts at its prior's median.
    """

    def __init__(self, sites: Mapping[str, Site]) -> None:
        super().__init__()
        self._transforms = {name: biject_to(site["fn"].support) for name, site in sites.items()}
        with in_turn(), torch.random.fork_rng(devices=[]):
            values = {name: init_to_median(site) for name, site in sites.items()}
        free = {name: self._transforms[name].inv(value) for name, value in values.items()}
        self.loc = SiteParameters(free)
        self.log_scale = SiteParameters(
            {name: torch.full_like(value, _INIT_SCALE).log() for name, value in free.items()}
        )

    def forward(self) -> dict[str, torch.Tensor]:
        """Sample every hyper-site."""
        return {name: pyro.sample(name, self.site_posterior(name)) for name in self._transforms}

    def site_posterior(self, name: str) -> TorchDistributionMixin:
        """Give the posterior of one hyper-site, on its support."""
        loc = self.loc.pyro_param("loc", name)
        scale = self.log_scale.pyro_param("log_scale", name).exp()
        base = dist.Normal(loc, scale, validate_args=False).to_event(loc.dim())
        return dist.TransformedDistribution(base, [self._transforms[name]])
