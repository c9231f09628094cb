"""The likelihood's part of the ELBO, read off the model's trace."""

from __future__ import annotations

import math

import torch
from pyro.poutine.trace_struct import Trace

from blob_pyro.poutine import Site, sample_sites


def negative_log_likelihood(model_trace: Trace) -> torch.Tensor:
    """Sum minus the log probability of the observed sites, scaled as their plates say."""
    observed = [name for name, site in sample_sites(model_trace) if _is_data(site)]
    if not observed:
        raise ValueError(
            "the model observed nothing, so there is no likelihood to fit; pass labels=..."
        )
    model_trace.compute_log_prob(lambda name, site: name in observed)
    return -torch.stack([model_trace.nodes[name]["log_prob_sum"] for name in observed]).sum()


def data_size(model_trace: Trace) -> int:
    """Read the size of the data set off the plates around the observed sites."""
    for _, site in sample_sites(model_trace):
        sizes = [
            frame.full_size or frame.size
            for frame in site["cond_indep_stack"]
            if frame.name != "num_particles_vectorized"
        ]
        if _is_data(site) and sizes:
            return math.prod(sizes)
    raise ValueError(
        "per_datum=True needs the data size, but no observed site is inside a pyro.plate; observe "
        "the data in pyro.plate('data', size=N, subsample_size=B)"
    )


def _is_data(site: Site) -> bool:
    return bool(site["is_observed"]) and not site["infer"].get("_deterministic", False)
