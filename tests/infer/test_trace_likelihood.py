from __future__ import annotations

from contextlib import ExitStack

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from blob_pyro.infer.reweighted_trace_elbo import data_size, negative_log_likelihood

DATA = torch.tensor([0.3, -0.7, 1.2])


def test_the_likelihood_is_that_of_the_observed_sites_as_their_plates_scale_it() -> None:
    def model() -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", torch.tensor(3.0))
        with pyro.plate("data", 12, subsample_size=3):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=DATA.double())
        pyro.sample("y", dist.Normal(0.0, 2.0), obs=torch.tensor(0.4))

    log_prob = 4 * dist.Normal(0.0, 1.0).log_prob(DATA.double()).sum()
    log_prob = log_prob + dist.Normal(0.0, 2.0).log_prob(torch.tensor(0.4))
    trace = poutine.trace(model).get_trace()
    assert torch.isclose(negative_log_likelihood(trace), -log_prob, rtol=1e-12)


def test_a_model_without_data_is_refused() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("logits", z)

    with pytest.raises(ValueError, match=r"the model observed nothing.*pass labels="):
        negative_log_likelihood(poutine.trace(model).get_trace())


@pytest.mark.parametrize(("plates", "size"), [([12], 12), ([12, 5], 60), ([], None)])
def test_the_data_size_is_the_product_of_the_plates(plates: list[int], size: int | None) -> None:
    def model() -> None:
        with ExitStack() as stack:
            stack.enter_context(pyro.plate("num_particles_vectorized", 9, dim=-3))
            for i, full in enumerate(plates):
                stack.enter_context(pyro.plate(f"p{i}", full, subsample_size=2))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.zeros([2] * len(plates)))

    trace = poutine.trace(model).get_trace()
    if size is None:
        with pytest.raises(ValueError, match=r"per_datum=True needs the data size.*pyro\.plate"):
            data_size(trace)
    else:
        assert data_size(trace) == size
