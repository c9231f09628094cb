from __future__ import annotations

import copy
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import nn

from blob_pyro.poutine import apply_weight, local_param


@pytest.mark.parametrize("inner", [(), (3,), (3, 2)], ids=["rows", "tokens", "heads"])
def test_a_shared_draw_is_one_linear_map(inner: tuple[int, ...]) -> None:
    weight, x = torch.randn(2, 4), torch.randn(5, *inner, 4)
    project = apply_weight(weight, x.shape[:-1])
    torch.testing.assert_close(project(x), x @ weight.T)


@pytest.mark.parametrize("inner", [(), (3,), (3, 2)], ids=["rows", "tokens", "heads"])
@pytest.mark.parametrize("plate", [(3,), (3, 1)], ids=["draws", "draws under a data plate"])
def test_each_draw_owns_consecutive_rows(plate: tuple[int, ...], inner: tuple[int, ...]) -> None:
    weight, x = torch.randn(*plate, 2, 4), torch.randn(3 * 5, *inner, 4)
    project = apply_weight(weight, x.shape[:-1])
    of_draw = [x[5 * k : 5 * (k + 1)] @ weight.reshape(3, 2, 4)[k].T for k in range(3)]
    torch.testing.assert_close(project(x), torch.cat(of_draw))


@pytest.mark.parametrize("rows", [5, 10])
def test_an_input_that_was_not_tiled_is_refused(rows: int) -> None:
    project = apply_weight(torch.randn(5, 1, 2, 4), torch.Size([15, 3]))
    with pytest.raises(ValueError, match=rf"got {rows} rows, but 5 weights were drawn for 15"):
        project(torch.randn(rows, 3, 4))


def test_a_handler_may_answer() -> None:
    class Twice(Messenger):
        def _pyro_apply_weight(self, msg: Any) -> None:
            weight, shape = msg["args"]
            assert (msg["name"], shape) == ("site", torch.Size([1]))
            msg["value"], msg["done"] = lambda x: 2 * x @ weight.T, True

    weight, x = torch.randn(2, 4), torch.randn(1, 4)
    with Twice():
        project = apply_weight(weight, x.shape[:-1], name="site")
    torch.testing.assert_close(project(x), 2 * x @ weight.T)
    torch.testing.assert_close(apply_weight(weight, x.shape[:-1], name="site")(x), x @ weight.T)


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


def test_a_handler_may_put_another_parameter_in_its_place() -> None:
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
