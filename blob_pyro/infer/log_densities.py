"""Log densities of posterior draws under prior and guide, site by site."""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch
from pyro import poutine

from blob_pyro.distributions import ColumnDropout
from blob_pyro.guides import LoraGuide
from blob_pyro.guides.hyper_posterior import hyper_sites
from blob_pyro.poutine import in_turn, sample_sites

SiteValues = dict[str, torch.Tensor]


def log_densities(
    guide: LoraGuide, draws: Mapping[str, torch.Tensor]
) -> dict[str, dict[str, torch.Tensor]]:
    """Evaluate the prior and the guide at draws of chosen sites.

    The result is what :func:`blob_pyro.diagnostics.from_pyro_svi` takes, as
    ``from_pyro_svi(predictive, posterior=draws, **log_densities(guide, draws))``.

    Parameters
    ----------
    guide
        A guide of this library; its sites are independent of one another.
    draws
        Site name to K x r x n, as ``posterior_predictive(..., return_sites=[...])`` gives them;
        with a hyper-prior, all of its sites among them. Any device.

    Returns
    -------
    dict
        ``log_prior`` and ``log_q``: site name to K, float, nats, on the CPU. A prior whose scale
        is latent is that given the draw's scale.

    Raises
    ------
    ValueError
        If a site is unknown, a draw has another shape, a hyper-site is missing, or the guide has no
        density.

    Examples
    --------
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS", target_modules=["query"])
    >>> guide = LowRankGaussianGuide(SequenceClassifier(net, num_data=10))
    >>> draws = {name: mean.expand(30, 2, 16) for name, mean in guide.mean().items()}
    >>> [tuple(value.shape) for value in log_densities(guide, draws)["log_q"].values()]
    [(30,), (30,)]
    """
    like = next(iter(guide.mean().values()))
    values = {name: draw.to(like) for name, draw in draws.items()}
    with in_turn(), torch.no_grad(), poutine.block():
        if missing := hyper_sites(guide.model).keys() - values.keys():
            raise ValueError(f"draws lack the sites {sorted(missing)} of the hyper-prior; add them")
        log_q = {name: _log_q(guide, name, value) for name, value in values.items()}
        num_draws = len(next(iter(values.values()), []))
        singles = [{name: value[k] for name, value in values.items()} for k in range(num_draws)]
        priors = [_log_prior(guide, single) for single in singles]
    log_prior = {name: torch.stack([prior[name] for prior in priors]).cpu() for name in values}
    return {"log_prior": log_prior, "log_q": log_q}


def _log_q(guide: LoraGuide, name: str, value: torch.Tensor) -> torch.Tensor:
    names = [*guide.sites, *hyper_sites(guide.model)]
    if name not in names:
        raise ValueError(f"draws: the guide has no site {name!r} but {names}")
    at = guide.site_posterior if name in guide.sites else guide.hyper.site_posterior
    posterior = at(name)
    if isinstance(posterior, dist.Delta | ColumnDropout):
        raise ValueError(
            f"{type(guide).__name__} puts site {name!r} on points, which have no density; leave "
            "log_prior and log_q out"
        )
    if value.shape[1:] != posterior.event_shape or value.dim() != 1 + len(posterior.event_shape):
        raise ValueError(
            f"draws of site {name!r} have the shape {(*value.shape,)}; wanted K x "
            f"{(*posterior.event_shape,)}, as posterior_predictive(..., return_sites=[...]) has it"
        )
    return posterior.log_prob(value).cpu()


def _log_prior(guide: LoraGuide, draw: SiteValues) -> SiteValues:
    # The random state does not notice the sites that are drawn beside.
    with in_turn(), torch.random.fork_rng(devices=[]):
        conditioned = poutine.condition(guide.model.sample_latents, draw)
        trace = poutine.trace(conditioned).get_trace()
    priors = dict(sample_sites(trace))
    return {name: priors[name]["fn"].log_prob(value).sum() for name, value in draw.items()}
