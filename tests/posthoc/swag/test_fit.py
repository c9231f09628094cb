"""SWAG's path: on a linear Gaussian problem whose every moment is known, and on a network."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from peft import LoraConfig, get_peft_model

from blob_pyro.guides import PointEstimateGuide, model_at_mean
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import BayesianLora
from blob_pyro.posthoc import swag

CHAINS, STEPS, EVERY, K, MU = 150, 120, 2, 5, 0.7


class Locations(BayesianLora):
    """Each entry of ``A`` is the location of a Gaussian of its own: independent chains."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.draw(x.shape)
        loc = self.network(x).squeeze(-1)
        with pyro.plate("data", self.num_data, subsample=x):
            pyro.sample("y", dist.Normal(loc, 1.0, validate_args=False), obs=y)


def locations() -> tuple[Locations, PointEstimateGuide]:
    linear = torch.nn.Linear(CHAINS, 1, bias=False)
    linear.weight.data.zero_()
    config = LoraConfig(r=1, lora_alpha=1, target_modules=["0"])
    net = get_peft_model(torch.nn.Sequential(linear), config)
    for name, parameter in net.named_parameters():
        parameter.data.fill_(1.0 if "lora_B" in name else MU)
        parameter.requires_grad_("lora_A" in name)
    linear.weight.data.zero_()
    model = Locations(net.double(), num_data=CHAINS)
    return model, PointEstimateGuide(model)


def noisy_data() -> Iterator[dict[str, torch.Tensor]]:
    x = torch.eye(CHAINS).double()
    while True:
        yield {"x": x, "y": MU + torch.randn(CHAINS).double()}


def path_covariance(rate: float, momentum: float) -> np.ndarray:
    """Covariance of the collected points of one chain, from the impulse response of SGD.

    The loss of a chain is ``(a - y)^2 / 2``, so with its gradient's noise e_t the deviation from
    MU follows ``v <- momentum v + a - e``, ``a <- a - rate v``.
    """
    state = np.zeros((2, STEPS))
    rows = []
    for t in range(STEPS):
        noise = np.eye(STEPS)[t]
        velocity = momentum * state[1] + state[0] - noise
        state = np.stack([state[0] - rate * velocity, velocity])
        rows.append(state[0])
    points = np.stack(rows)[EVERY - 1 :: EVERY]
    return points @ points.T


def test_the_oracle_knows_the_stationary_variances() -> None:
    # Without momentum it is an AR(1) process; with momentum, Mandt et al. (2017).
    for rate, momentum in ((0.2, 0.0), (0.1, 0.6)):
        expected = rate * (1 + momentum) / ((1 - momentum) * (2 * (1 + momentum) - rate))
        assert path_covariance(rate, momentum)[-1, -1] == pytest.approx(expected, rel=1e-6)
    assert path_covariance(0.2, 0.0)[-1, -1] == pytest.approx(0.2 / 1.8)


@pytest.mark.parametrize(("rate", "momentum"), [(0.2, 0.0), (0.1, 0.6)])
def test_the_posterior_is_that_of_the_path(rate: float, momentum: float, z_score: Any) -> None:
    # 7 means over 150 independent chains within 4 standard errors, twice: fails 1 seed in 1000.
    pyro.set_rng_seed(2)
    model, guide = locations()
    elbo = ReweightedTrace_ELBO(1, kl_scale=0.0, per_datum=True)
    posterior = swag(
        model,
        guide,
        elbo,
        noisy_data(),
        # The loss is a mean over the chains.
        learning_rate=rate * CHAINS,
        momentum=momentum,
        num_steps=STEPS,
        collect_every=EVERY,
        num_deviations=K,
    )
    (name,) = posterior.sites
    covariance = path_covariance(rate, momentum)
    T = len(covariance)
    centred = np.eye(T) - 1 / T
    variance = np.trace(centred @ covariance @ centred) / T
    mean, squares = posterior.M[name].squeeze(0), posterior.S[name].squeeze(0) ** 2
    assert z_score(mean[:, None], MU) < 4
    assert z_score(squares[:, None], variance / 2) < 4
    # Half of it would be seen, and so would the whole.
    assert z_score(squares[:, None], variance / 4) > 4
    assert z_score(squares[:, None], variance) > 4
    # The last deviations, each from the mean of its own time.
    running = np.eye(T) - np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
    late = np.diag(running @ covariance @ running.T)[-K:] / (2 * (K - 1))
    assert z_score(posterior.F[name].squeeze(0) ** 2, torch.from_numpy(late.copy())) < 4
    assert guide.M[name].data_ptr() != posterior.M[name].data_ptr()


@pytest.mark.parametrize("latent", [("A",), ("A", "B")])
def test_the_path_is_that_of_sgd(latent: Any, classifier: Any, token_batch: Any) -> None:
    model = classifier("bert", "SEQ_CLS").double() if latent == ("A",) else both(classifier)
    guide = PointEstimateGuide(model)
    twin, twin_guide = copy.deepcopy((model, guide))
    batches = [token_batch(seed=seed) for seed in range(3)]
    elbo = ReweightedTrace_ELBO(3, "uniform", kl_scale=0.1, per_datum=True)
    posterior = swag(
        model,
        guide,
        elbo,
        batches,
        learning_rate=0.05,
        num_steps=8,
        collect_every=2,
        num_deviations=3,
    )
    points = {n: p for n, p in twin.named_parameters() if p.requires_grad}
    sgd = torch.optim.SGD([*points.values(), *twin_guide.M.parameters()], 0.05, momentum=0.9)
    visited: list[dict[str, torch.Tensor]] = []
    for step in range(8):
        sgd.zero_grad()
        twin_elbo = ReweightedTrace_ELBO(3, "uniform", kl_scale=0.1, per_datum=True)
        twin_elbo(twin, twin_guide)(**batches[step % 3]).backward()
        sgd.step()
        if step % 2:
            now = {**points, **dict(twin_guide.M.items())}
            visited.append({name: value.detach().clone() for name, value in now.items()})
    mean = {name: torch.stack([point[name] for point in visited]).mean(0) for name in visited[0]}
    for name, found in posterior.mean().items():
        torch.testing.assert_close(found, mean[name])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.detach(), mean[name])
    # The other matrix is part of the posterior if it is latent, and a point if not.
    assert any("lora_B" in name for name in points) == (latent == ("A",))
    assert any("lora_B" in name for name in posterior.sites) == (latent == ("A", "B"))
    assert elbo.step == 8


def both(classifier: Any) -> Any:
    model = classifier("bert", "SEQ_CLS").double()
    return model_at_mean(model, PointEstimateGuide(model), ("A", "B"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 7}, r"num_steps=7 with collect_every=2 collect 3 .*take at least 8 steps"),
        ({"collect_every": 0}, "collect_every=0 must be at least 1"),
        ({"num_deviations": 1}, "num_deviations=1: their covariance needs 2"),
        ({"learning_rate": -1.0}, r"learning_rate=-1.0 must be positive"),
        ({"learning_rate": math.nan}, r"learning_rate=nan must be positive"),
        ({"batches": []}, "no batch to go on with"),
    ],
)
def test_wrong_settings_are_named(
    options: dict[str, Any], message: str, classifier: Any, token_batch: Any
) -> None:
    model = classifier("bert", "SEQ_CLS")
    settings: dict[str, Any] = {
        "batches": [token_batch()],
        "learning_rate": 0.1,
        "num_steps": 8,
        "collect_every": 2,
        "num_deviations": 4,
        **options,
    }
    with pytest.raises(ValueError, match=message):
        swag(model, PointEstimateGuide(model), ReweightedTrace_ELBO(1), **settings)


def test_a_gradient_that_is_no_number_stops_it(classifier: Any, token_batch: Any) -> None:
    model = classifier("bert", "SEQ_CLS")
    guide = PointEstimateGuide(model)
    next(guide.M.parameters()).register_hook(lambda grad: grad * math.nan)
    before = guide.mean()
    with pytest.raises(FloatingPointError, match="gradient's norm is nan at step 0"):
        swag(
            model,
            guide,
            ReweightedTrace_ELBO(1),
            [token_batch()],
            learning_rate=0.1,
            num_steps=4,
            collect_every=1,
            num_deviations=2,
        )
    assert all(torch.equal(guide.mean()[name], before[name]) for name in before)
