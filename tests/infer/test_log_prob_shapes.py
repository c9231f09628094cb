"""Pyro's check of log_prob against the plates holds under our ELBO, whoever wrote the model."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from peft import LoraConfig, get_peft_model
from pyro.infer import Trace_ELBO
from torch import nn

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import BayesianLora

X = torch.tensor([[0.3], [-0.7], [1.2]])
Y = torch.tensor([0.1, 0.9, -0.4])


class Regression(BayesianLora):
    """A user's likelihood, whose mean has a trailing dimension unless it is squeezed."""

    def forward(self, x: torch.Tensor, y: torch.Tensor, how: str) -> None:
        self.draw(x.shape)
        mean = self.network(x)
        with self.data_plate(x):
            if how == "right":
                pyro.sample("y", dist.Normal(mean.squeeze(-1), 1.0), obs=y)
            elif how == "column":
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        if how == "no plate":
            pyro.sample("y", dist.Normal(mean.squeeze(-1), 1.0), obs=y)


@pytest.fixture
def model() -> Regression:
    net = get_peft_model(nn.Sequential(nn.Linear(1, 1)), LoraConfig(r=1, target_modules=["0"]))
    return Regression(net, num_data=3)


def elbos() -> list[Any]:
    return [Trace_ELBO(), ReweightedTrace_ELBO(1), ReweightedTrace_ELBO(1, num_particles=2)]


@pytest.mark.parametrize("how", ["column", "no plate"])
def test_a_users_likelihood_of_the_wrong_shape_is_refused_as_by_pyro(
    how: str, model: Regression
) -> None:
    guide = LowRankGaussianGuide(model)
    messages = set()
    for elbo in elbos():
        with pytest.raises(ValueError, match='at site "y", invalid log_prob shape') as error:
            elbo.loss(model, guide, X, Y, how)
        messages.add(str(error.value))
    assert len(messages) == 1


def test_a_users_likelihood_of_the_right_shape_is_what_it_was(model: Regression) -> None:
    guide = LowRankGaussianGuide(model)
    with torch.no_grad():
        # B is zero before training, so the draw does not matter to the likelihood.
        mean = model.network.get_base_model()[0].base_layer(X).squeeze(-1)  # type: ignore[index,operator]
    nll = -dist.Normal(mean, 1.0).log_prob(Y).sum()
    elbo = ReweightedTrace_ELBO(1, kl_scale=0.0)
    assert elbo.loss(model, guide, X, Y, "right") == pytest.approx(float(nll), rel=1e-5)


def test_a_latent_of_the_wrong_shape_is_refused_as_by_pyro() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
        with pyro.plate("data", 3):
            pyro.sample("x", dist.Normal(z, 1.0), obs=Y)

    def guide() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

    for elbo in elbos():
        with pytest.raises(ValueError, match='at site "z", invalid log_prob shape'):
            elbo.loss(model, guide)
