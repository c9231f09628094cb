from __future__ import annotations

from typing import Any

import pytest

from blob_pyro.recipe import Recipe
from blob_pyro.training import TrainingConfig


def test_only_methods_that_start_from_a_fit_have_a_start() -> None:
    with pytest.raises(ValueError, match=r"start='mle': the method 'blob' is trained from the ba"):
        Recipe(method="blob", start="mle")
    with pytest.raises(ValueError, match="method='x' is unknown"):
        Recipe(method="temperature", start="x")


def test_the_number_of_steps_is_that_of_all_members() -> None:
    training = TrainingConfig(num_steps=7)
    assert Recipe(method="ens", training=training).num_steps == 21
    assert Recipe(method="temperature", training=training).num_steps == 7
    assert Recipe(method="zero_shot", training=training).num_steps == 0
    assert Recipe(method="swag", training=training).num_steps == 207


@pytest.mark.parametrize(
    ("method", "option", "message"),
    [
        ("ens", {"num_members": 0}, "num_members=0: give a number of at least 1"),
        ("swag", {"num_steps": 20}, "num_steps=20 with collect_every=4 collect 5 weights but"),
    ],
)
def test_an_option_out_of_range_is_refused_before_anything_is_fitted(
    method: str, option: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=f"options of method '{method}': {message}"):
        Recipe(method=method, options=option)


@pytest.mark.parametrize(("cycle", "num_batches"), [("epoch", 2), ("rescaled", 86)])
def test_the_length_of_a_cycle(cycle: Any, num_batches: int) -> None:
    recipe = Recipe(cycle=cycle, schedule="blundell", kl_scale=0.1)
    elbo = recipe.elbo(4, "elbo", examples_per_step=2)
    assert (elbo.num_batches, elbo.schedule, elbo.kl_scale) == (num_batches, "blundell", 0.1)
    # The paper's: one KL a cycle beside the mean loss of a batch.
    elbo = Recipe(cycle=cycle, kl_scale=None).elbo(4, "elbo", examples_per_step=2)
    assert elbo.kl_scale == pytest.approx(4 / num_batches)


def test_the_likelihood_alone_has_no_kl() -> None:
    assert Recipe(kl_scale=0.1).elbo(4, "likelihood").kl_scale == 0


def test_the_posterior_starts_where_the_prior_is_unless_it_is_said() -> None:
    assert Recipe(prior_scale=0.09).start_scale == 0.09
    assert Recipe(prior_scale=0.09, init_scale=0.0025).start_scale == 0.0025


def test_what_follows_from_the_data_is_filled_in_for_each_start() -> None:
    recipe = Recipe(method="ens", options={"num_members": 2})
    with pytest.raises(ValueError, match="follows from the data"):
        _ = recipe.num_steps
    assert recipe.for_data(400).num_steps == 2 * 560
    assert recipe.changed(num_steps=7).for_data(400).num_steps == 14


def test_a_start_wider_than_the_prior_is_refused() -> None:
    with pytest.raises(ValueError, match=r"wider than the prior's 0.2.*give 0.09"):
        Recipe(init_scale=0.35)
    assert Recipe(method="scalabl", init_scale=0.49).start_scale == 0.49
