"""The step counter, checkpoints and the stops of the ELBO."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI

from blob_pyro.infer import ReweightedTrace_ELBO, kl_weight


@pytest.mark.parametrize("options", [{}, {"num_particles": 3}])
@pytest.mark.parametrize("vectorize", [False, True])
def test_svi_counts_its_steps_and_only_those(options: Any, vectorize: bool, conjugate: Any) -> None:
    model, guide, x = conjugate()
    elbo = ReweightedTrace_ELBO(
        3, "blundell", 0.5, vectorize_particles=vectorize, per_datum=True, **options
    )
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    for step in range(7):
        svi.evaluate_loss(x)
        assert elbo.step == step
        assert elbo.terms.kl_weight == 0.5
        loss = svi.step(x)
        assert elbo.step == step + 1
        terms = elbo.terms
        assert terms.step == step
        assert terms.kl_weight == pytest.approx(1.5 * kl_weight(step, 3, "blundell"), rel=1e-15)
        # What is logged is what was optimised.
        logged = (terms.nll + terms.kl_weight * terms.kl) / len(x)
        assert float(logged) == pytest.approx(float(terms.loss), rel=1e-12)
        assert float(terms.loss) == pytest.approx(loss, rel=1e-12)


def test_the_module_counts_a_step_when_its_gradient_is_first_taken(conjugate: Any) -> None:
    model, guide, x = conjugate()
    elbo = ReweightedTrace_ELBO(3)
    module = elbo(model, guide)
    first, second = module(x), module(x)
    assert elbo.step == 0
    (0.5 * first).backward(retain_graph=True)
    assert elbo.step == 1
    first.backward()
    assert elbo.step == 1
    torch.autograd.grad(second, list(guide.parameters()))
    assert elbo.step == 2
    with torch.no_grad():
        module(x)
    assert elbo.step == 2
    assert elbo.terms.step == 2
    assert elbo.terms.kl_weight == pytest.approx(3 * 4 / 7)


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("train", ["svi", "module"])
def test_a_loss_that_is_not_finite_stops_before_the_step(
    train: str, wrong: float, conjugate: Any
) -> None:
    model, guide, x = conjugate()
    elbo = ReweightedTrace_ELBO(4, num_particles=2)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
    module = elbo(model, guide)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.1)

    def step(x: torch.Tensor) -> None:
        if train == "svi":
            svi.step(x)
        else:
            optimizer.zero_grad()
            module(x).backward()
            optimizer.step()

    step(x)
    step(x)
    before = [parameter.detach().clone() for parameter in guide.parameters()]
    message = rf"loss is {wrong} at step 2 \(nll={wrong}, kl=.*, kl_weight=.*the step before"
    with pytest.raises(FloatingPointError, match=message):
        step(x.clone().index_fill_(0, torch.tensor([1]), wrong))
    assert elbo.step == 2
    after = list(guide.parameters())
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))
    step(x)
    assert elbo.step == 3


def test_the_counter_goes_on_from_a_checkpoint(conjugate: Any) -> None:
    old, new = (ReweightedTrace_ELBO(5, "blob", 0.1) for _ in range(2))
    for _ in range(7):
        old.loss_and_grads(*conjugate())
    new.load_state_dict(old.state_dict())
    assert new.state_dict() == old.state_dict()
    new.loss_and_grads(*conjugate())
    assert (new.terms.step, new.step) == (7, 8)
    assert new.terms.kl_weight == pytest.approx(0.1 * 5 * kl_weight(2, 5, "blob"))


@pytest.mark.parametrize(
    ("name", "other"), [("num_batches", 6), ("schedule", "uniform"), ("kl_scale", 0.2)]
)
def test_a_checkpoint_of_other_settings_is_refused(name: str, other: Any) -> None:
    settings = {"num_batches": 5, "schedule": "blob", "kl_scale": 0.1}
    elbo = ReweightedTrace_ELBO(**settings)
    state = ReweightedTrace_ELBO(**{**settings, name: other}).state_dict()
    message = f"checkpoint's ELBO has {name}={other!r} but this one has {settings[name]!r}"
    with pytest.raises(ValueError, match=message):
        elbo.load_state_dict({**state, "step": 3})
    assert elbo.step == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_batches": 0}, "num_batches=0: a cycle needs at least one batch"),
        ({"kl_scale": math.nan}, "kl_scale=nan must be finite and not negative"),
        ({"num_particles": 0}, "num_particles=0: the ELBO needs at least one draw"),
    ],
)
def test_impossible_settings_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReweightedTrace_ELBO(**{"num_batches": 4, **options})
