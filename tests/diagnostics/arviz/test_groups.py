import numpy as np
import pytest

from blob_pyro.diagnostics.arviz.from_pyro_svi import check_shape, stacked
from blob_pyro.diagnostics.arviz.groups import latent_group, stack_layers
from blob_pyro.diagnostics.layer_path import layer_path, site_path


def site(layer: int, module: str = "q") -> str:
    return f"base_model.model.model.layers.{layer}.{module}.lora_A.weight"


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape)


def test_widths_name_the_features_where_they_differ() -> None:
    group = latent_group(
        "posterior", {site(0): weights(9, 2, 5), site(1): weights(9, 2, 7)}, {}, {}
    )
    assert group[site_path(site(0))].dims[2:] == ("rank", "in_feature_5")
    assert group[site_path(site(1))].dims[2:] == ("rank", "in_feature_7")


def test_a_latent_b_has_its_rank_last() -> None:
    name = site(0).replace("lora_A", "lora_B")
    group = latent_group("posterior", {site(0): weights(9, 2, 5), name: weights(9, 6, 2)}, {}, {})
    assert group[site_path(name)].dims[2:] == ("out_feature", "rank")
    assert group[site_path(site(0))].dims[2:] == ("rank", "in_feature")
    assert set(stack_layers(group).data_vars) == {"model.layers.q", "model.layers.q.lora_B"}


def test_ranks_that_differ_have_names_of_their_own() -> None:
    group = latent_group(
        "posterior", {site(0): weights(9, 2, 5), site(1): weights(9, 4, 5)}, {}, {}
    )
    assert group[site_path(site(1))].dims[2:] == ("rank_4", "in_feature")


def test_dims_given_come_first_and_others_are_numbered() -> None:
    draws = {site(0): weights(9, 2, 5), "tau": weights(9, 3), "prior.shared_scale": weights(9)}
    group = latent_group("posterior", draws, {site(0): ["r", "n"]}, {})
    assert group[site_path(site(0))].dims == ("chain", "draw", "r", "n")
    assert group["tau"].dims == ("chain", "draw", "tau_dim_0")
    assert group["prior.shared_scale"].dims == ("chain", "draw")


def test_layers_are_stacked_in_order_by_module() -> None:
    draws = {site(i, m): weights(9, 2, 5) + i for i in (10, 2) for m in ("q", "v")}
    stacked = stack_layers(latent_group("posterior", draws | {"tau": weights(9)}, {}, {}))
    assert set(stacked.data_vars) == {"model.layers.q", "model.layers.v", "tau"}
    assert stacked["layer"].values.tolist() == [2, 10]
    for index, layer in enumerate((2, 10)):
        got = stacked["model.layers.v"].values[0, :, index]
        np.testing.assert_array_equal(got, draws[site(layer, "v")])


def test_modules_of_other_layers_have_their_own_dimension() -> None:
    draws = {
        site(0, "q"): weights(9, 2, 5),
        site(1, "q"): weights(9, 2, 5),
        site(1, "v"): weights(9, 2, 5),
    }
    stacked = stack_layers(latent_group("posterior", draws, {}, {}))
    assert stacked["layer_of_model.layers.q"].values.tolist() == [0, 1]
    assert stacked["layer_of_model.layers.v"].values.tolist() == [1]


def test_layers_of_other_shapes_are_not_stacked() -> None:
    group = latent_group(
        "posterior", {site(0): weights(9, 2, 5), site(1): weights(9, 2, 7)}, {}, {}
    )
    message = r"the layers of 'model.layers.q' have weights of the shapes \[\(2, 5\), \(2, 7\)\]"
    with pytest.raises(ValueError, match=message):
        stack_layers(group)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (
            "base_model.model.bert.encoder.layer.11.attention.self.query.lora_A.weight",
            ("bert.encoder.layer.attention.self.query", 11),
        ),
        (
            "base_model.model.model.layers.3.mlp.experts.7.w1.lora_A.weight",
            ("model.layers.mlp.experts.7.w1", 3),
        ),
        (
            "base_model.model.model.layers.3.q.lora_A.prior_scale",
            ("model.layers.q.lora_A.prior_scale", 3),
        ),
        ("prior.shared_scale", ("prior.shared_scale", None)),
    ],
)
def test_paths(name: str, path: tuple[str, int | None]) -> None:
    assert layer_path(name) == path


def test_one_fit_is_one_chain() -> None:
    fit = {"a": np.zeros(3)}
    assert stacked("posterior", fit, {})["a"].shape == (1, 3)
    assert stacked("posterior", (fit, fit), {})["a"].shape == (2, 3)


def test_chains_come_first() -> None:
    fits = [{"a": np.full((2, 5), chain)} for chain in range(3)]
    array = stacked("posterior", fits, {})["a"]
    assert array.shape == (3, 2, 5)
    np.testing.assert_array_equal(array[:, 0, 0], [0, 1, 2])


def test_differing_names_are_refused() -> None:
    message = r"posterior of chains 0 and 1 differs in its names: \[\['a'\], \['b'\]\]"
    with pytest.raises(ValueError, match=message):
        stacked("posterior", [{"a": [0.0]}, {"b": [0.0]}], {})


@pytest.mark.parametrize("shape", [(), (2,), (2, 4), (3, 2)])
def test_wrong_leading_dimensions_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"'a' has shape .*start with \(chain=2, draw=3\)"):
        check_shape("a", np.zeros(shape), {"chain": 2, "draw": 3})


def test_right_leading_dimensions_pass() -> None:
    check_shape("a", np.zeros((2, 3, 9)), {"chain": 2, "draw": 3})
