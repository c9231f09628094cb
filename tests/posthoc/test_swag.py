"""SWAG's path: on a linear Gaussian problem whose every moment is known, and on a network."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from blob_pyro.guides import PointEstimateGuide, model_at_mean
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import BayesianLora
from blob_pyro.posthoc import swag
from blob_pyro.training import CheckpointConfig, TrainingConfig

CHAINS, STEPS, EVERY, K, MU = 150, 120, 2, 5, 0.7
PLAIN: dict[str, Any] = {"max_grad_norm": None, "flipout": False}


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


def noisy(rows: list[Any]) -> dict[str, torch.Tensor]:
    return {"x": torch.eye(CHAINS).double(), "y": MU + torch.randn(CHAINS).double()}


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
    # The loss is a mean over the chains.
    config = TrainingConfig(num_steps=STEPS, learning_rate=rate * CHAINS, **PLAIN)
    posterior = swag(
        model,
        guide,
        elbo,
        Dataset.from_dict({"input_ids": [[0]]}),
        noisy,
        config,
        momentum=momentum,
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
    whole = token_batch(seed=0)
    data = Dataset.from_dict({name: value.tolist() for name, value in whole.items()})
    seen: list[dict[str, torch.Tensor]] = []

    def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
        seen.append({name: torch.tensor([row[name] for row in rows]) for name in whole})
        return seen[-1]

    elbo = ReweightedTrace_ELBO(3, "uniform", kl_scale=0.1, per_datum=True)
    posterior = swag(
        model,
        guide,
        elbo,
        data,
        collate,
        TrainingConfig(num_steps=8, batch_size=2, learning_rate=0.05, **PLAIN),
        collect_every=2,
        num_deviations=3,
    )
    points = {n: p for n, p in twin.named_parameters() if p.requires_grad}
    sgd = torch.optim.SGD([*points.values(), *twin_guide.M.parameters()], 0.05, momentum=0.9)
    visited: list[dict[str, torch.Tensor]] = []
    for step in range(8):
        sgd.zero_grad()
        twin_elbo = ReweightedTrace_ELBO(3, "uniform", kl_scale=0.1, per_datum=True)
        twin_elbo(twin, twin_guide)(**seen[step]).backward()
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


@pytest.mark.parametrize("num_deviations", [1, 5])
def test_a_path_too_short_is_refused_before_it_is_walked(
    num_deviations: int, classifier: Any
) -> None:
    model = classifier("bert", "SEQ_CLS")
    config = TrainingConfig(num_steps=8, **PLAIN)
    message = f"num_deviations={num_deviations} must lie between 2 and the 4 weights that num_st"
    with pytest.raises(ValueError, match=message):
        swag(
            model,
            PointEstimateGuide(model),
            ReweightedTrace_ELBO(1),
            Dataset.from_dict({}),
            noisy,
            config,
            collect_every=2,
            num_deviations=num_deviations,
        )


def test_a_walk_that_was_stopped_goes_on_bit_for_bit(
    classifier: Any, token_batch: Any, tmp_path: Path
) -> None:
    whole = token_batch(seed=0)
    data = Dataset.from_dict({name: value.tolist() for name, value in whole.items()})

    def walked(folder: Path, stop: int | None = None, resume: bool = False) -> Any:
        def on_step(record: Any) -> None:
            if record.step == stop:
                raise KeyboardInterrupt

        pyro.set_rng_seed(0)
        model = classifier("bert", "SEQ_CLS")
        posterior = swag(
            model,
            PointEstimateGuide(model),
            ReweightedTrace_ELBO(2, "uniform", kl_scale=0.1, per_datum=True),
            data,
            lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in whole},
            TrainingConfig(num_steps=9, batch_size=2, learning_rate=0.05, **PLAIN),
            collect_every=2,
            num_deviations=3,
            checkpoints=CheckpointConfig(folder, save_every=1, resume=resume),
            on_step=on_step,
        )
        points = {n: p for n, p in model.named_parameters() if p.requires_grad}
        return {**posterior.state_dict(), **points}

    through = walked(tmp_path / "through")
    with pytest.raises(KeyboardInterrupt):
        walked(tmp_path / "stopped", stop=6)
    resumed = walked(tmp_path / "stopped", resume=True)
    assert all(torch.equal(resumed[name], value) for name, value in through.items())
