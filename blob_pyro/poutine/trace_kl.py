"""The KL divergence of a guide from a model's prior, read off a pair of traces."""

from typing import Any, cast

import torch
from pyro.distributions import Delta, Independent, Normal
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch.distributions import kl_divergence


class PooledNormals:
    """Pairs of normal distributions whose entries go through one formula together.

    A network has a site a layer.  Their KL divergences are sums over entries, so all entries may
    stand in one vector: a handful of operations in place of a handful for each site.

    Examples
    --------
    >>> pool = PooledNormals()
    >>> pool.take(Normal(torch.zeros(2), 1.0).to_event(1), Normal(torch.ones(2), 1.0).to_event(1))
    True
    >>> pool.kl()
    [tensor(1.)]
    """

    def __init__(self) -> None:
        self._pairs: dict[Any, list[tuple[torch.Tensor, ...]]] = {}

    def take(self, posterior: Any, prior: Any) -> bool:
        """Take a pair in, or say that it is none of independent normals without batch."""
        q, p = _entries(posterior), _entries(prior)
        if q is None or p is None or posterior.event_shape != prior.event_shape:
            return False
        # Only what can stand in one vector is pooled.
        key = (q.loc.dtype, q.loc.device, p.loc.dtype, p.loc.device)
        self._pairs.setdefault(key, []).append((q.loc, q.scale, p.loc, p.scale))
        return True

    def kl(self) -> list[torch.Tensor]:
        """Give the divergences, nats: one sum for each dtype and device."""
        terms = []
        for pairs in self._pairs.values():
            q_loc, q_scale, p_loc, p_scale = (
                torch.cat([pair[part].reshape(-1) for pair in pairs]) for part in range(4)
            )
            q = Normal(q_loc, q_scale, validate_args=False)
            p = Normal(p_loc, p_scale, validate_args=False)
            terms.append(kl_divergence(q, p).sum())
        return terms


def _entries(distribution: Any) -> Any:
    if type(distribution) is not Independent or distribution.batch_shape:
        return None
    base = distribution.base_dist
    return base if type(base) is Normal else None


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
