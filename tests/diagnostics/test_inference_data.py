"""Passes with ArviZ 0.2x and 1.x; needs no torch."""

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from blob_pyro.diagnostics import from_pyro_svi

SITE = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
K, N, C = 30, 12, 3


@pytest.fixture(scope="module")
def az() -> ModuleType:
    with warnings.catch_warnings():
        # ArviZ 0.23 announces 1.x once a day, when it is first imported.
        warnings.filterwarnings("ignore", message="\nArviZ is undergoing a major refactor")
        import arviz
    return arviz


pytestmark = pytest.mark.usefixtures("az")


def fit(seed: int = 0, num_draws: int = K) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = np.linspace(-1, 1, C) + 0.3 * rng.normal(size=(num_draws, N, C))
    labels = np.arange(N) % C
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    log_lik = np.stack([row[np.arange(N), labels] for row in log_p])
    return {"logits": logits, "labels": labels, "log_likelihood": log_lik}


def names(data: Any, group: str) -> set[str]:
    return set(data[group].data_vars)


def group_names(data: Any) -> set[str]:
    groups = data.groups() if callable(data.groups) else data.groups
    return {name.strip("/") for name in groups if name != "/"}


def test_groups_dims_and_values() -> None:
    one = fit()
    data = from_pyro_svi(
        one,
        posterior={SITE: np.ones((K, 2, 5)), "log_scale": np.arange(float(K))},
        constant_data={"text": [f"question {n}?" for n in range(N)], "score": np.zeros((N, 2))},
        class_names=["A", "B", "C"],
    )
    assert group_names(data) == {
        "posterior",
        "posterior_predictive",
        "log_likelihood",
        "observed_data",
        "constant_data",
    }
    assert names(data, "posterior") == {SITE, "log_scale"}
    assert data.posterior[SITE].dims[:2] == ("chain", "draw")
    assert data.posterior[SITE].shape == (1, K, 2, 5)
    np.testing.assert_array_equal(data.posterior["log_scale"][0], np.arange(K))

    probs = data.posterior_predictive["probs"]
    assert probs.dims == ("chain", "draw", "example", "class")
    assert probs["class"].values.tolist() == ["A", "B", "C"]
    softmax = np.exp(one["logits"]) / np.exp(one["logits"]).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(probs[0], softmax)
    assert data.posterior_predictive["labels"].dims == ("chain", "draw", "example")

    assert data.log_likelihood["labels"].dims == ("chain", "draw", "example")
    np.testing.assert_array_equal(data.log_likelihood["labels"][0], one["log_likelihood"])
    assert data.observed_data["labels"].dims == ("example",)
    np.testing.assert_array_equal(data.observed_data["labels"], one["labels"])
    assert data.constant_data["text"].dims == ("example",)
    assert data.constant_data["score"].dims[0] == "example"
    assert data.constant_data["text"].values[3] == "question 3?"


def test_fits_become_chains_and_rhat_tells_them_apart(az: ModuleType) -> None:
    alike = from_pyro_svi([fit(0), fit(1)])
    assert dict(alike.posterior.sizes)["chain"] == 2
    apart = fit(1)
    apart["logits"] = apart["logits"] + np.array([0.0, 2.0, 0.0])
    other = from_pyro_svi([fit(0), apart])

    def worst(data: Any) -> float:
        return float(az.rhat(data)["probs"].max())

    assert worst(alike) < 1.5 < worst(other)


def test_sites_of_several_fits_are_stacked() -> None:
    sites = [{SITE: np.full((K, 2), chain)} for chain in range(2)]
    data = from_pyro_svi([fit(0), fit(1)], posterior=sites, dims={SITE: ["rank"]})
    assert data.posterior[SITE].dims == ("chain", "draw", "rank")
    np.testing.assert_array_equal(data.posterior[SITE][:, 0, 0], [0, 1])


def test_probabilities_stand_in_for_the_posterior() -> None:
    data = from_pyro_svi(fit())
    assert names(data, "posterior") == {"probs"}
    np.testing.assert_array_equal(data.posterior["probs"], data.posterior_predictive["probs"])


def test_out_of_distribution_data_need_no_labels() -> None:
    data = from_pyro_svi({"logits": fit()["logits"]})
    assert group_names(data) == {"posterior", "posterior_predictive"}


def test_coordinates_and_attributes() -> None:
    ids = [f"q{n}" for n in range(N)]
    data = from_pyro_svi(fit(), coords={"example": ids}, attrs={"guide": "AutoNormal"})
    assert data.observed_data["example"].values.tolist() == ids
    assert data.posterior["class"].values.tolist() == [0, 1, 2]
    for attrs in (data.attrs, data.posterior.attrs, data.observed_data.attrs):
        assert attrs["inference_library"] == "blob_pyro"
        assert attrs["guide"] == "AutoNormal"


def test_replicated_labels_follow_the_probabilities() -> None:
    probs = np.array([0.7, 0.0, 0.3])
    with np.errstate(divide="ignore"):
        logits = np.broadcast_to(np.log(probs), (4000, 5, 3))
    labels = from_pyro_svi({"logits": logits}).posterior_predictive["labels"].values
    share = np.bincount(labels.ravel(), minlength=3) / labels.size
    # 5 standard errors: over all seeds it would fail for fewer than one in 10^6.
    assert abs(share[0] - 0.7) < 5 * np.sqrt(0.7 * 0.3 / labels.size)
    assert share[1] == 0.0
    # Draws of one example differ from draw to draw, and examples differ within a draw.
    assert len(np.unique(labels[0, :, 0])) == 2
    assert len(np.unique(labels[0].argmax(axis=1))) > 1


def test_seed_decides_the_replicated_labels() -> None:
    def draw(seed: int) -> np.ndarray:
        labels = from_pyro_svi(fit(), seed=seed).posterior_predictive["labels"].values
        return np.asarray(labels)

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()


@pytest.mark.filterwarnings("ignore:Estimated shape parameter:UserWarning")
@pytest.mark.parametrize("sites", [None, {SITE: np.random.default_rng(5).normal(size=(K, 2))}])
def test_loo_runs_and_lies_below_the_predictive(az: ModuleType, sites: Any) -> None:
    one = fit()
    loo = az.loo(from_pyro_svi(one, posterior=sites), var_name="labels", reff=1.0)
    elpd = float(loo["elpd_loo"] if "elpd_loo" in dir(loo) else loo.elpd)
    log_mean = np.log(np.exp(one["log_likelihood"]).mean(axis=0)).sum()
    assert log_mean - 2.0 < elpd < log_mean


def test_netcdf_round_trip(az: ModuleType, tmp_path: Path) -> None:
    data = from_pyro_svi(
        [fit(0), fit(1)],
        posterior=[{SITE: np.random.default_rng(c).normal(size=(K, 2, 3))} for c in range(2)],
        constant_data={"text": ["Löwe", "?", *["x"] * (N - 2)]},
        class_names=["A", "B", "C"],
    )
    data.to_netcdf(str(tmp_path / "fit.nc"))
    again = az.from_netcdf(str(tmp_path / "fit.nc"))
    assert group_names(again) == group_names(data)
    for group in group_names(data):
        for name in names(data, group):
            np.testing.assert_array_equal(again[group][name].values, data[group][name].values)
            assert again[group][name].dims == data[group][name].dims
    assert again.attrs["inference_library"] == "blob_pyro"
    assert again.posterior_predictive["class"].values.tolist() == ["A", "B", "C"]


def test_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    one = {name: torch.tensor(array) for name, array in fit().items()}
    data = from_pyro_svi(one, posterior={SITE: torch.ones(K, 2, dtype=torch.bfloat16)})
    np.testing.assert_array_equal(data.posterior[SITE], 1.0)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"logits": None}, {}, r"predictive has the names .*; wanted 'logits'. Pass what"),
        ({"log_likelihood": np.zeros((K, 3))}, {}, r"\(1, 30, 3\); .*draw=30, example=12\)"),
        ({"labels": np.arange(5)}, {}, r"labels have shape \(5,\); wanted \(12,\)"),
        ({}, {"posterior": {SITE: np.zeros((4, 2))}}, r"start with \(chain=1, draw=30\)"),
        ({}, {"constant_data": {"id": ["a"]}}, r"'id' has shape \(1,\).*\(example=12\)"),
        ({}, {"class_names": ["A", "B"]}, "class_names has 2 names; wanted 3, one for each"),
        ({}, {"posterior": {"a/b": np.zeros(K)}}, "the name 'a/b' contains '/'; wanted none"),
        ({}, {"constant_data": {"a/b": np.zeros(N)}}, "the name 'a/b' contains '/'"),
        ({}, {"constant_data": {"labels": np.zeros(N)}}, "'labels' is used 2 times; wanted once"),
        ({}, {"constant_data": {"probs": np.zeros(N)}}, "'probs' is used 2 times; wanted once"),
        ({}, {"posterior": {"probs": np.zeros(K)}}, "'probs' is used 2 times"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    one = {name: array for name, array in {**fit(), **change}.items() if array is not None}
    with pytest.raises(ValueError, match=message):
        from_pyro_svi(one, **options)


def test_chains_must_hold_the_same_examples_in_the_same_order() -> None:
    other = fit(1)
    other["labels"] = other["labels"][::-1]
    with pytest.raises(ValueError, match=r"labels of example 0 are \[0, 2\].*without shuffling"):
        from_pyro_svi([fit(0), other])


def test_chains_must_have_the_same_draws() -> None:
    with pytest.raises(ValueError, match=r"'logits' of chain 1 has shape \(7, 12, 3\)"):
        from_pyro_svi([fit(0), fit(1, num_draws=7)])
