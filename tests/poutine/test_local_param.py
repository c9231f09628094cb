from __future__ import annotations

import copy

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from blob_pyro.poutine import local_param


class Guide(nn.Module):
    """A point at a parameter that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self) -> None:
        pyro.sample("z", dist.Delta(local_param("loc", self.loc)))


def model() -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(4.0))


def test_the_statement_is_seen_by_handlers() -> None:
    parameter = nn.Parameter(torch.ones(2, 3))
    trace = poutine.trace(lambda: local_param("weight", parameter)).get_trace()
    site = trace.nodes["weight"]
    assert site["type"] == "param"
    assert torch.equal(site["value"], parameter)
    assert site["value"].unconstrained() is parameter


def test_gradients_flow_to_the_parameter() -> None:
    parameter = nn.Parameter(torch.ones(2, 3))
    (3 * local_param("weight", parameter)).sum().backward()
    assert parameter.grad is not None
    assert torch.equal(parameter.grad, torch.full((2, 3), 3.0))


def test_a_handler_may_answer() -> None:
    parameter, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    trace = poutine.trace(lambda: local_param("weight", other)).get_trace()
    params = {"weight": trace.nodes["weight"]["value"]}
    replayed = poutine.replay(lambda: local_param("weight", parameter), params=params)
    assert torch.equal(replayed(), other)


def test_two_modules_of_the_same_names_both_learn_and_share_nothing() -> None:
    first, second = Guide(), Guide()
    for guide in (first, second):
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        before = copy.deepcopy(first.state_dict())
        for _ in range(200):
            svi.step()
        # The posterior mode of the conjugate pair is 4 / 2; nothing here is random.
        assert abs(guide.loc.item() - 2.0) < 1e-2
        assert guide is first or first.state_dict() == before
    assert list(pyro.get_param_store()) == []
