"""The KL divergence of a guide from a model's prior, read off a pair of traces."""

from __future__ import annotations

from typing import Any, cast

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch.distributions import kl_divergence

from blob_pyro.poutine.pooled_normals import PooledNormals

Site = dict[str, Any]


def sample_sites(trace: Trace) -> list[tuple[str, Site]]:
    """List the sample sites of a trace, observed ones among them, in their order."""
    nodes = cast(dict[str, Site], trace.nodes)
    return [(name, site) for name, site in nodes.items() if site["type"] == "sample"]


def kl_terms(model_trace: Trace, guide_trace: Trace) -> list[torch.Tensor]:
    """List summands of the KL divergence: closed forms, and the draw's log densities elsewhere."""
    priors = dict(sample_sites(model_trace))
    mean_field = _mean_field_sites(model_trace, guide_trace)
    terms, sampled, pool = [], [], PooledNormals()
    for name, site in sample_sites(guide_trace):
        _check_reparametrized(name, site)
        prior = priors[name] if name in mean_field else None
        if prior is not None and _is_plain(site, prior) and pool.take(site["fn"], prior["fn"]):
            continue
        analytic = None if prior is None else analytic_kl(site, prior)
        if analytic is None:
            sampled.append(name)
        else:
            terms.append(analytic)
    terms += pool.kl()
    if sampled:
        guide_trace.compute_log_prob(lambda name, site: name in sampled)
        model_trace.compute_log_prob(lambda name, site: name in sampled)
        terms += [guide_trace.nodes[name]["log_prob_sum"] for name in sampled]
        # An auxiliary site of the guide has no prior: it is absent from the model.
        shared = [name for name in sampled if name in priors]
        terms += [-model_trace.nodes[name]["log_prob_sum"] for name in shared]
    return terms


def analytic_kl(guide_site: Site, model_site: Site) -> torch.Tensor | None:
    """Give the closed-form KL of one site, or None where a draw has to serve."""
    # A Delta's density may carry a Jacobian (autoguides), which the registered KL would drop.
    if _is_point(guide_site["fn"]):
        return None
    # With other scales or masks on one side the two halves of the KL do not belong together.
    if not all(_same(guide_site[key], model_site[key]) for key in ("scale", "mask")):
        return None
    try:
        kl = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        return None
    kl = scale_and_mask(kl, scale=guide_site["scale"], mask=guide_site["mask"])
    return kl.sum()


def _is_plain(*sites: Site) -> bool:
    """Tell whether nothing weights the entries of sites, so that they can stand in one sum."""
    return all(
        site["mask"] is None and isinstance(site["scale"], int | float) and site["scale"] == 1
        for site in sites
    )


def _mean_field_sites(model_trace: Trace, guide_trace: Trace) -> set[str]:
    """Name the sites whose prior cannot depend on anything that the guide draws later.

    Elsewhere the prior already knows the draw, and a KL that averages over the site is wrong.
    """
    position = {name: index for index, (name, _) in enumerate(sample_sites(guide_trace))}
    names, latest = set(), -1
    for name, _ in sample_sites(model_trace):
        if position.get(name, -1) > latest:
            names.add(name)
            latest = position[name]
    return names


def _is_point(fn: Any) -> bool:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def _same(left: Any, right: Any) -> bool:
    tensors = [isinstance(value, torch.Tensor) for value in (left, right)]
    if all(tensors):
        return left is right or (left.shape == right.shape and bool((left == right).all()))
    return not any(tensors) and left == right


def _check_reparametrized(name: str, site: Site) -> None:
    if not site["fn"].has_rsample:
        raise ValueError(
            f"guide site {name!r} is a {type(site['fn']).__name__}, whose draw cannot be "
            "differentiated; use pyro.infer.TraceGraph_ELBO for such a guide"
        )
