"""Passes with ArviZ 0.2x and 1.x; needs no torch."""

import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from blob_pyro.diagnostics import to_arviz

SITE = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
SHORT = "model.layers.0.self_attn.q_proj"
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


def records(num_steps: int, seed: int = 0) -> list[SimpleNamespace]:
    terms = np.random.default_rng(seed).uniform(1, 2, size=(num_steps, 4))
    keys = ("loss", "nll", "kl", "kl_weight")
    return [
        SimpleNamespace(step=step, **dict(zip(keys, row, strict=True)))
        for step, row in enumerate(terms)
    ]


def layer_site(layer: int, module: str = "q_proj") -> str:
    return f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_A.weight"


def names(data: Any, group: str) -> set[str]:
    return set(data[group].data_vars)


def group_names(data: Any) -> set[str]:
    groups = data.groups() if callable(data.groups) else data.groups
    return {name.strip("/") for name in groups if name != "/"}


def test_groups_dims_and_values() -> None:
    one = fit()
    data = to_arviz(
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
    assert names(data, "posterior") == {SHORT, "log_scale"}
    assert data.posterior[SHORT].dims[:2] == ("chain", "draw")
    assert data.posterior[SHORT].shape == (1, K, 2, 5)
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
    alike = to_arviz([fit(0), fit(1)])
    assert dict(alike.posterior.sizes)["chain"] == 2
    apart = fit(1)
    apart["logits"] = apart["logits"] + np.array([0.0, 2.0, 0.0])
    other = to_arviz([fit(0), apart])

    def worst(data: Any) -> float:
        return float(az.rhat(data)["probs"].max())

    assert worst(alike) < 1.5 < worst(other)


def test_sites_of_several_fits_are_stacked() -> None:
    sites = [{SITE: np.full((K, 2), chain)} for chain in range(2)]
    data = to_arviz([fit(0), fit(1)], posterior=sites, dims={SITE: ["rank"]})
    assert data.posterior[SHORT].dims == ("chain", "draw", "rank")
    np.testing.assert_array_equal(data.posterior[SHORT][:, 0, 0], [0, 1])


def test_probabilities_stand_in_for_the_posterior() -> None:
    data = to_arviz(fit())
    assert names(data, "posterior") == {"probs"}
    np.testing.assert_array_equal(data.posterior["probs"], data.posterior_predictive["probs"])


def test_out_of_distribution_data_need_no_labels() -> None:
    data = to_arviz({"logits": fit()["logits"]})
    assert group_names(data) == {"posterior", "posterior_predictive"}


def test_coordinates_and_attributes() -> None:
    ids = [f"q{n}" for n in range(N)]
    data = to_arviz(fit(), coords={"example": ids}, attrs={"guide": "AutoNormal"})
    assert data.observed_data["example"].values.tolist() == ids
    assert data.posterior["class"].values.tolist() == [0, 1, 2]
    for attrs in (data.attrs, data.posterior.attrs, data.observed_data.attrs):
        assert attrs["inference_library"] == "blob_pyro"
        assert attrs["guide"] == "AutoNormal"


def test_replicated_labels_follow_the_probabilities() -> None:
    probs = np.array([0.7, 0.0, 0.3])
    with np.errstate(divide="ignore"):
        logits = np.broadcast_to(np.log(probs), (4000, 5, 3))
    labels = to_arviz({"logits": logits}).posterior_predictive["labels"].values
    share = np.bincount(labels.ravel(), minlength=3) / labels.size
    # 5 standard errors: over all seeds it would fail for fewer than one in 10^6.
    assert abs(share[0] - 0.7) < 5 * np.sqrt(0.7 * 0.3 / labels.size)
    assert share[1] == 0.0
    # Draws of one example differ from draw to draw, and examples differ within a draw.
    assert len(np.unique(labels[0, :, 0])) == 2
    assert len(np.unique(labels[0].argmax(axis=1))) > 1


def test_seed_decides_the_replicated_labels() -> None:
    def draw(seed: int) -> np.ndarray:
        labels = to_arviz(fit(), seed=seed).posterior_predictive["labels"].values
        return np.asarray(labels)

    np.testing.assert_array_equal(draw(1), draw(1))
    assert (draw(1) != draw(2)).any()


@pytest.mark.filterwarnings("ignore:Estimated shape parameter:UserWarning")
@pytest.mark.parametrize("sites", [None, {SITE: np.random.default_rng(5).normal(size=(K, 2))}])
def test_loo_runs_and_lies_below_the_predictive(az: ModuleType, sites: Any) -> None:
    one = fit()
    loo = az.loo(to_arviz(one, posterior=sites), var_name="labels", reff=1.0)
    elpd = float(loo["elpd_loo"] if "elpd_loo" in dir(loo) else loo.elpd)
    log_mean = np.log(np.exp(one["log_likelihood"]).mean(axis=0)).sum()
    assert log_mean - 2.0 < elpd < log_mean


def test_netcdf_round_trip(az: ModuleType, tmp_path: Path) -> None:
    data = to_arviz(
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
    data = to_arviz(one, posterior={SITE: torch.ones(K, 2, dtype=torch.bfloat16)})
    np.testing.assert_array_equal(data.posterior[SHORT], 1.0)


def everything(num_chains: int = 2) -> Any:
    """Every group, of two fits with two sites."""
    rng = np.random.default_rng(3)
    chains = range(num_chains)
    sites = [layer_site(0), layer_site(4)]
    return to_arviz(
        [fit(chain) for chain in chains],
        posterior=[{site: rng.normal(size=(K, 2, 5)) for site in sites} for _ in chains],
        prior={site: rng.normal(size=(50, 2, 5)) for site in sites},
        prior_predictive={"logits": rng.normal(size=(50, N, C))},
        predictions=[{"logits": rng.normal(size=(K, 4, C))} for _ in chains],
        log_prior=[{site: rng.normal(size=K) for site in sites} for _ in chains],
        log_q=[{site: rng.normal(size=K) for site in sites} for _ in chains],
        records=[records(7, chain) for chain in chains],
        constant_data={"text": [f"t{n}" for n in range(N)]},
        predictions_constant_data={"text": [f"new {n}" for n in range(4)]},
        by_layer=True,
        class_names=["A", "B", "C"],
    )


MODULE = "model.layers.self_attn.q_proj"
DIMS = {
    "posterior": {MODULE: ("chain", "draw", "layer", "rank", "in_feature")},
    "prior": {MODULE: ("chain", "draw", "layer", "rank", "in_feature")},
    "log_prior": {MODULE: ("chain", "draw", "layer")},
    "prior_predictive": {
        "labels": ("chain", "draw", "example"),
        "probs": ("chain", "draw", "example", "class"),
    },
    "predictions": {
        "labels": ("chain", "draw", "new_example"),
        "probs": ("chain", "draw", "new_example", "class"),
    },
    "sample_stats": {
        "log_q": ("chain", "draw", "site"),
        **dict.fromkeys(("loss", "nll", "kl", "kl_weight"), ("chain", "step")),
    },
    "constant_data": {"text": ("example",)},
    "predictions_constant_data": {"text": ("new_example",)},
}


def test_every_group_has_its_dimensions() -> None:
    data = everything()
    assert group_names(data) == {
        *DIMS,
        "posterior_predictive",
        "log_likelihood",
        "observed_data",
    }
    for group, variables in DIMS.items():
        assert {name: data[group][name].dims for name in names(data, group)} == variables
    assert data.posterior["layer"].values.tolist() == [0, 4]
    assert data.prior.sizes["draw"] == 50
    assert data.predictions["class"].values.tolist() == ["A", "B", "C"]
    assert data.predictions_constant_data["text"].values[3] == "new 3"
    assert data.sample_stats["site"].values.tolist() == [
        f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 4)
    ]
    wanted = [record.kl for record in records(7, 1)]
    np.testing.assert_array_equal(data.sample_stats["kl"][1], wanted)


def test_all_of_it_survives_a_file(az: ModuleType, tmp_path: Path) -> None:
    data = everything()
    data.to_netcdf(str(tmp_path / "fit.nc"))
    again = az.from_netcdf(str(tmp_path / "fit.nc"))
    assert group_names(again) == group_names(data)
    for group in group_names(data):
        for name in {*names(data, group), *data[group].coords}:
            np.testing.assert_array_equal(again[group][name].values, data[group][name].values)


def test_one_fit_takes_its_records_alone() -> None:
    data = to_arviz(fit(), records=records(5))
    assert data.sample_stats["nll"].shape == (1, 5)
    assert data.sample_stats["step"].values.tolist() == [0, 1, 2, 3, 4]


def test_what_the_examples_have_may_be_called_labels() -> None:
    data = to_arviz(fit(), constant_data={"labels": np.arange(N)}, posterior={"probs": np.ones(K)})
    np.testing.assert_array_equal(data.constant_data["labels"], np.arange(N))
    assert data.posterior["probs"].dims == ("chain", "draw")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"logits": None}, {}, r"predictive has the names .* gives: logits"),
        ({"log_likelihood": np.zeros((K, 3))}, {}, r"\(1, 30, 3\); .*draw=30, example=12\)"),
        ({"labels": np.arange(5)}, {}, r"labels have shape \(5,\) .*wanted \(12,\)"),
        ({}, {"posterior": {SITE: np.zeros((4, 2))}}, r"start with \(chain=1, draw=30\)"),
        ({}, {"constant_data": {"id": ["a"]}}, r"'id' has shape \(1,\).*\(example=12\)"),
        ({}, {"class_names": ["A", "B"]}, "conflicting sizes for dimension 'class'"),
        ({}, {"posterior": {"a/b": np.zeros(K)}}, "the name 'a/b' contains '/'"),
        ({}, {"constant_data": {"a/b": np.zeros(N)}}, "the name 'a/b' contains '/'"),
        ({}, {"log_prior": {SITE: np.zeros(4)}}, r"start with \(chain=1, draw=30\)"),
        ({}, {"log_q": {SITE: np.zeros(4)}}, r"has shape .* \(chain=1, draw=30\)"),
        (
            {},
            {"prior_predictive": {"probs": np.zeros(3)}},
            r"prior_predictive has the names .*logits",
        ),
        (
            {},
            {"prior_predictive": {"logits": np.zeros((9, 5, C))}},
            r"prior_predictive has logits of the sizes \{.*'example': 5, .* wanted those of",
        ),
        (
            {},
            {"predictions": {"logits": np.zeros((9, 5, C))}},
            r"predictions has logits of the sizes \{'chain': 1, 'draw': 9, .* wanted those of",
        ),
        (
            {},
            {"predictions_constant_data": {"id": ["a"]}},
            "is given without predictions; wanted bo",
        ),
        ({}, {"records": []}, "there are no records of steps"),
        ({}, {"records": [records(3)] * 2}, r"'step' has shape \(2, 3\); .* \(chain=1\)"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    one = {name: array for name, array in {**fit(), **change}.items() if array is not None}
    with pytest.raises(ValueError, match=message):
        to_arviz(one, **options)


def test_chains_must_hold_the_same_examples_in_the_same_order() -> None:
    other = fit(1)
    other["labels"] = other["labels"][::-1]
    with pytest.raises(ValueError, match=r"labels of example 0 are \[0, 2\].*without shuffling"):
        to_arviz([fit(0), other])


def test_chains_must_have_the_same_draws() -> None:
    with pytest.raises(
        ValueError, match=r"'logits' has the shapes \[\(30, 12, 3\), \(7, 12, 3\)\]"
    ):
        to_arviz([fit(0), fit(1, num_draws=7)])
