"""Passes with ArviZ 0.2x and 1.x; needs no torch."""

import numpy as np
import pytest

from blob_pyro.diagnostics import loo, pareto_k, to_arviz

az = pytest.importorskip("arviz")
# Few draws make ArviZ ask for small values of k; here it is not they that are tested.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Estimated shape parameter:UserWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning"),  # in arviz.compare
]


def fit(num_draws: int = 60, noise: float = 0.2, right: float = 1.0) -> dict[str, np.ndarray]:
    """Twenty labelled examples, about which the draws know as much as ``right`` says."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 3
    logits = right * np.eye(3)[labels] + noise * rng.normal(size=(num_draws, 20, 3))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return {
        "logits": logits,
        "labels": labels,
        "log_likelihood": log_p[:, np.arange(20), labels],
    }


def elpd(result: object) -> float:
    return float(result["elpd_loo"] if "elpd_loo" in dir(result) else result.elpd)  # type: ignore


def test_loo_against_plain_importance_sampling() -> None:
    one = fit(num_draws=4000, noise=0.1)
    # With so little noise the ratios hardly vary, and smoothing their tail changes nothing.
    exact = -np.log(np.exp(-one["log_likelihood"]).mean(axis=0)).sum()
    assert abs(elpd(loo(to_arviz(one))) - exact) < 1e-3
    chains = [
        {**one, "logits": half, "log_likelihood": log_lik}
        for half, log_lik in zip(
            np.split(one["logits"], 2), np.split(one["log_likelihood"], 2), strict=True
        )
    ]
    assert abs(elpd(loo(to_arviz(chains))) - exact) < 1e-3


def test_compare_ranks_methods() -> None:
    methods = {
        name: loo(to_arviz(fit(right=right)))
        for name, right in {"knows": 2.0, "guesses": 0.0}.items()
    }
    table = az.compare(methods)
    assert [*table.index] == ["knows", "guesses"]


def test_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match=r"there are 24 draws; PSIS wants num_samples=25"):
        loo(to_arviz(fit(num_draws=24)))
    loo(to_arviz([fit(num_draws=13), fit(num_draws=13)]))
    with pytest.raises(ValueError, match="there are 24 draws"):
        pareto_k(np.zeros(24))


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_k_is_the_shape_of_a_pareto_tail(shape: float) -> None:
    rng = np.random.default_rng(0)
    estimates = [pareto_k(shape * rng.exponential(size=2000) - 700.0) for _ in range(20)]
    # 4.5 standard errors, and the bias of ArviZ's prior, which adds 10 draws at k = 0.5 to a tail
    # of 134.
    bias = 10 / 144 * abs(0.5 - shape)
    error = np.std(estimates) / 20**0.5
    assert abs(np.mean(estimates) - shape) < 4.5 * error + bias


@pytest.mark.parametrize("weights", [np.zeros((30, 2)), np.append(np.zeros(30), np.nan)])
def test_weights_that_are_no_numbers_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"log_weights, .* must be one finite number"):
        pareto_k(weights)
