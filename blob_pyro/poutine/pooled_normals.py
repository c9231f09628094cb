"""One closed-form KL divergence for all sites of independent normal entries."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Independent, Normal
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
