from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro.infer import Predictive
from scipy.optimize import minimize

from blob_pyro.guides import LaplaceGuide, LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.posthoc import calibrate, fit_temperature


def nll(logits: torch.Tensor, labels: torch.Tensor, temperature: Any) -> float:
    """By hand: probabilities averaged over draws."""
    p = (logits.double() / torch.as_tensor(temperature)).softmax(-1).mean(0)
    return float(-p[torch.arange(len(labels)), labels].log().mean())


def made_up(num_draws: int = 3, scale: float = 4.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(num_draws, 40, 3, generator=generator)
    return logits, logits[0].div(scale).add(torch.randn(40, 3, generator=generator)).argmax(-1)


@pytest.mark.parametrize("num_draws", [1, 3])
@pytest.mark.parametrize("per_class", [False, True])
def test_the_fit_is_scipys(num_draws: int, per_class: bool) -> None:
    logits, labels = made_up(num_draws)
    found = fit_temperature(logits, labels, per_class=per_class)
    size = 3 if per_class else 1
    other = minimize(
        lambda t: nll(logits, labels, torch.from_numpy(t).exp()),
        [0.0] * size,
        method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 5000},
    )
    expected = torch.from_numpy(other.x).exp()
    torch.testing.assert_close(found.reshape(-1), expected, atol=0, rtol=1e-4)
    assert found.shape == ((3,) if per_class else ())
    assert nll(logits, labels, found) < nll(logits, labels, 1.0) - 0.1


def test_options_that_a_question_lacks_change_nothing() -> None:
    logits, labels = made_up()
    padded = torch.cat([logits, torch.full_like(logits[..., :1], -torch.inf)], dim=-1)
    torch.testing.assert_close(fit_temperature(padded, labels), fit_temperature(logits, labels))
    with pytest.raises(ValueError, match=r"per_class=True: some questions have fewer .*False"):
        fit_temperature(padded, labels, per_class=True)


def test_what_is_always_right_gets_the_least_temperature() -> None:
    logits = torch.eye(3)[None]
    with pytest.warns(UserWarning, match=r"the 3 held-out .* as likely at the bound 0.01"):
        found = fit_temperature(logits, torch.arange(3))
    assert 0.01 <= float(found) < 0.1


@pytest.mark.parametrize(
    ("logits", "labels", "bound"),
    [
        # So sure of all right answers that the descent is flat long before the bound.
        ([[4.0, 0.0]] * 4, [0] * 4, "0.01"),
        # Half of them right, at any confidence.
        ([[4.0, 0.0]] * 4, [0, 0, 1, 1], "100"),
    ],
)
def test_examples_that_tell_no_temperature_are_named(
    logits: list[list[float]], labels: list[int], bound: str
) -> None:
    with pytest.warns(UserWarning, match=f"as likely at the bound {bound}; hold out"):
        fit_temperature(torch.tensor([logits]), torch.tensor(labels))


def test_one_class_of_several_may_have_no_best_temperature() -> None:
    logits, labels = made_up()
    # Never an answer, and the surer of that the better.
    logits = torch.cat([logits, torch.full_like(logits[..., :1], -3.0)], dim=-1)
    with pytest.warns(UserWarning, match="is not the best") as caught:
        fit_temperature(logits, labels, per_class=True)
    assert [str(warning.message).count("at the bound 0.01") for warning in caught] == [1]


# Few examples and a random network: any temperature will do here.
@pytest.mark.filterwarnings("ignore:the temperature .* is not the best")
@pytest.mark.parametrize("guide_class", [LowRankGaussianGuide, PointEstimateGuide])
def test_a_calibrated_model_divides_its_logits(
    guide_class: Any, classifier: Any, token_batch: Any
) -> None:
    model = classifier("llama")
    guide = guide_class(model)
    held_out = [token_batch(rows=6, seed=seed) for seed in range(3)]
    before = posterior_predictive(model, guide, held_out, 4, 0, progress=False)
    temperature = calibrate(model, guide, held_out, 4, 0)
    torch.testing.assert_close(
        temperature, fit_temperature(before["logits"], before["labels"]).float()
    )
    assert abs(float(temperature) - 1) > 0.01
    after = posterior_predictive(model, guide, held_out, 4, 0, parallel=2, progress=False)
    torch.testing.assert_close(after["logits"], before["logits"] / temperature)
    assert after["log_likelihood"].logsumexp(0).sum() > before["log_likelihood"].logsumexp(0).sum()
    # Twice is once: it is fitted anew.
    assert torch.equal(calibrate(model, guide, held_out, 4, 0), temperature)
    batch = {k: v for k, v in held_out[0].items() if k != "labels"}
    predictive = Predictive(model.eval(), guide=guide, num_samples=2, return_sites=("logits",))
    assert predictive(**batch)["logits"].shape == (2, 6, 3)


def test_a_model_keeps_its_temperature_where_none_is_found(
    classifier: Any, token_batch: Any
) -> None:
    model = classifier("llama")
    model.set_temperature(3.0)
    unlabelled = {name: value for name, value in token_batch().items() if name != "labels"}
    for loader in ([], [unlabelled]):
        with pytest.raises(ValueError, match=r"no batch|fitted to labels"):
            calibrate(model, PointEstimateGuide(model), loader)
        assert model.temperature == 3


# Few examples and a random network: any temperature will do here.
@pytest.mark.filterwarnings("ignore:the temperature .* is not the best")
@pytest.mark.parametrize("predictive", ["linearised", "network", "probit"])
def test_a_laplace_approximation_is_calibrated_for_what_it_predicts(
    predictive: Any, classifier: Any, token_batch: Any
) -> None:
    model = classifier("llama")
    guide = LaplaceGuide(model, 25.0, predictive=predictive)
    held_out = [token_batch(rows=6, seed=seed) for seed in range(3)]
    if predictive == "probit":
        with pytest.raises(ValueError, match=r"'probit' divides .*with predictive='linearised'"):
            calibrate(model, guide, held_out, 4, 0)
        # The network at the mean has no such variances.
        calibrate(model, guide, held_out, 0)
        return
    before = posterior_predictive(model, guide, held_out, 4, 0, progress=False)["logits"]
    temperature = calibrate(model, guide, held_out, 4, 0)
    after = posterior_predictive(model, guide, held_out, 4, 0, progress=False)["logits"]
    torch.testing.assert_close(after, before / temperature)
