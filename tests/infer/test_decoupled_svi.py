from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from blob_pyro.infer import DecoupledSVI, ReweightedTrace_ELBO, kl_weight

ADAM = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.0)
SGD = partial(torch.optim.SGD, lr=0.5)
NUM_DATA, CYCLE = 8, 3


def objective(**options: Any) -> ReweightedTrace_ELBO:
    return ReweightedTrace_ELBO(CYCLE, kl_scale=0.3, **{"per_datum": True, **options})


@pytest.fixture
def doubles(program: Any, token_batch: Any) -> Any:
    model, guide = program("bert", num_data=NUM_DATA)
    return model.double(), guide.double(), token_batch(4)


def parameters(model: Any, guide: Any) -> dict[str, torch.Tensor]:
    named = [*guide.named_parameters(), *model.named_parameters()]
    return {name: value.detach().clone() for name, value in named if value.requires_grad}


def gradients(loss: torch.Tensor, leaves: Any) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))


def step_by_hand(model: Any, guide: Any, batch: Any, scale_updates: str, step: int) -> float:
    """The two halves from autograd and plain optimisers, in the order that the paper's code has."""
    points = [p for p in model.parameters() if p.requires_grad]
    means, roots = list(guide.M.parameters()), list(guide.G.parameters())
    elbo = ReweightedTrace_ELBO(1, "uniform", kl_scale=0.0)
    nll = elbo.differentiable_loss(model, guide, **batch) / NUM_DATA
    of_nll = gradients(nll, [*points, *means, *roots])
    moved = [*points, *means, *(roots if scale_updates == "both" else [])]
    adam = ADAM(moved)
    for parameter, grad in zip(moved, of_nll, strict=False):
        parameter.grad = grad
    adam.step()
    weight = CYCLE * kl_weight(step, CYCLE) * 0.3 / NUM_DATA
    kl = sum(
        torch.distributions.kl_divergence(
            torch.distributions.Normal(m, g * g),
            torch.distributions.Normal(torch.zeros_like(m), torch.full_like(m, 0.2)),
        ).sum()
        for m, g in zip(means, roots, strict=True)
    )
    of_kl = gradients(weight * kl, [*means, *roots])
    sgd = SGD([*means, *roots])
    if scale_updates == "kl_optim":
        waiting = [*[torch.zeros_like(mean) for mean in means], *of_nll[-len(roots) :]]
        of_kl = [late + early for late, early in zip(of_kl, waiting, strict=True)]
    for parameter, grad in zip([*means, *roots], of_kl, strict=True):
        parameter.grad = grad
    sgd.step()
    return float((nll + weight * kl).detach())


@pytest.mark.parametrize("scale_updates", ["kl_optim", "both"])
def test_a_step_is_the_one_made_by_hand(scale_updates: Any, doubles: Any) -> None:
    model, guide, batch = doubles
    by_hand_model, by_hand_guide = copy.deepcopy((model, guide))
    svi = DecoupledSVI(model, guide, ADAM, SGD, objective(), scale_updates=scale_updates)
    torch.manual_seed(5)
    found = svi.step(**batch)
    torch.manual_seed(5)
    wanted = step_by_hand(by_hand_model, by_hand_guide, batch, scale_updates, step=0)
    assert found == pytest.approx(wanted, rel=1e-10)
    torch.testing.assert_close(
        parameters(model, guide), parameters(by_hand_model, by_hand_guide), rtol=1e-9, atol=1e-12
    )


def test_what_is_returned_is_what_was_descended(doubles: Any) -> None:
    svi = DecoupledSVI(*doubles[:2], ADAM, SGD, objective())
    for step in range(2 * CYCLE):
        loss = svi.step(**doubles[2])
        terms = svi.loss.terms
        assert terms is not None
        assert terms.kl_weight == pytest.approx(CYCLE * kl_weight(step, CYCLE) * 0.3)
        assert loss == pytest.approx(float(terms.nll + terms.kl_weight * terms.kl) / NUM_DATA)
        assert terms.step == step
        assert svi.loss.step == step + 1
        assert svi.grad_norm > 0


def test_without_per_datum_the_losses_are_of_the_whole_data_set(doubles: Any) -> None:
    model, guide, batch = doubles
    svi = DecoupledSVI(model, guide, ADAM, SGD, objective(per_datum=False))
    loss = svi.step(**batch)
    terms = svi.loss.terms
    assert terms is not None
    assert loss == pytest.approx(float(terms.nll + terms.kl_weight * terms.kl))


def test_the_kl_alone_takes_the_guide_to_the_prior(doubles: Any) -> None:
    model, guide, batch = doubles
    still = partial(torch.optim.SGD, lr=0.0)
    elbo = ReweightedTrace_ELBO(1, "uniform", per_datum=True)
    # Without the likelihood's gradient the spread moves by the KL alone.
    svi = DecoupledSVI(
        model, guide, still, partial(torch.optim.SGD, lr=0.02), elbo, scale_updates="both"
    )
    before = guide.kl().item()
    for _ in range(300):
        svi.step(**batch)
    assert guide.kl().item() < 1e-3 * before
    for scale in guide.scale().values():
        torch.testing.assert_close(scale, torch.full_like(scale, 0.2), rtol=0.05, atol=0)


def test_both_rates_follow_their_schedules(doubles: Any) -> None:
    warm = partial(get_linear_schedule_with_warmup, num_warmup_steps=2, num_training_steps=6)
    svi = DecoupledSVI(*doubles[:2], ADAM, SGD, objective(), scheduler=warm, kl_scheduler=warm)
    rates = []
    for _ in range(6):
        rates += [svi.optim.param_groups[0]["lr"], svi.kl_optim.param_groups[0]["lr"]]
        svi.step(**doubles[2])
    shape = [0, 0.5, 1, 0.75, 0.5, 0.25]
    assert rates == pytest.approx([rate * x for x in shape for rate in (1e-2, 0.5)])


def test_gradients_of_the_likelihood_are_clipped(doubles: Any) -> None:
    model, guide, batch = doubles
    by_sgd = partial(torch.optim.SGD, lr=1.0)
    elbo = ReweightedTrace_ELBO(1, "uniform", kl_scale=0.0)
    before = parameters(model, guide)
    # As an earlier fit may have left it.
    frozen = next(each for each in model.parameters() if not each.requires_grad)
    frozen.grad = torch.full_like(frozen, 100.0)
    svi = DecoupledSVI(model, guide, by_sgd, by_sgd, elbo, scale_updates="both", max_grad_norm=1e-3)
    svi.step(**batch)
    after = parameters(model, guide)
    moved = sum((after[name] - before[name]).square().sum() for name in before)
    assert svi.grad_norm > 1e-3
    assert float(moved.sqrt()) == pytest.approx(1e-3, rel=1e-3)


def test_a_restored_run_goes_on_bit_for_bit(doubles: Any) -> None:
    warm = partial(get_linear_schedule_with_warmup, num_warmup_steps=2, num_training_steps=6)

    def make(model: Any, guide: Any) -> DecoupledSVI:
        options = {"scheduler": warm, "kl_scheduler": warm}
        return DecoupledSVI(model, guide, ADAM, SGD, objective(), **options)

    model, guide, batch = doubles
    svi = make(model, guide)
    for _ in range(3):
        svi.step(**batch)
    state, programs = copy.deepcopy(svi.state_dict()), copy.deepcopy((model, guide))
    random_state = torch.get_rng_state()
    through = [svi.step(**batch) for _ in range(2)]

    restored = make(*programs)
    restored.load_state_dict(state)
    torch.set_rng_state(random_state)
    assert [restored.step(**batch) for _ in range(2)] == through
    assert restored.loss.step == 5
    expected = parameters(model, guide)
    for name, value in parameters(*programs).items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize(
    "options",
    [
        {"scale_updates": "both"},
        {"scheduler": partial(torch.optim.lr_scheduler.ConstantLR)},
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(options: Any, doubles: Any) -> None:
    state = DecoupledSVI(*doubles[:2], ADAM, SGD, objective()).state_dict()
    other = DecoupledSVI(*doubles[:2], ADAM, SGD, objective(), **options)
    with pytest.raises(ValueError, match=r"the checkpoint has .*make it with the checkpoint's set"):
        other.load_state_dict(state)


def test_a_checkpoint_of_another_objective_is_refused(doubles: Any) -> None:
    state = DecoupledSVI(*doubles[:2], ADAM, SGD, objective()).state_dict()
    svi = DecoupledSVI(*doubles[:2], ADAM, SGD, ReweightedTrace_ELBO(CYCLE + 1))
    with pytest.raises(ValueError, match="the checkpoint's ELBO has num_batches=3"):
        svi.load_state_dict(state)


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # Pyro warns, this library stops
def test_a_likelihood_that_is_no_number_stops_before_the_step(doubles: Any) -> None:
    model, guide, batch = doubles
    svi = DecoupledSVI(model, guide, ADAM, SGD, objective())
    with torch.no_grad():
        model.network.get_base_model().bert.pooler.dense.bias.fill_(float("nan"))
    before = parameters(model, guide)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 0 \(nll=nan"):
        svi.step(**batch)
    assert svi.loss.step == 0
    for name, value in parameters(model, guide).items():
        assert torch.equal(value, before[name])


def test_evaluation_counts_nothing_and_takes_no_gradient(doubles: Any) -> None:
    model, guide, batch = doubles
    svi = DecoupledSVI(model, guide, ADAM, SGD, objective())
    before = parameters(model, guide)
    torch.manual_seed(1)
    found = svi.evaluate_loss(**batch)
    torch.manual_seed(1)
    assert found == objective().loss(model, guide, **batch)
    assert svi.loss.step == 0
    assert all(torch.equal(value, before[name]) for name, value in parameters(model, guide).items())


def test_an_unknown_way_of_moving_the_spread_is_refused(doubles: Any) -> None:
    with pytest.raises(ValueError, match="scale_updates='adam' is unknown; use 'kl_optim'"):
        DecoupledSVI(*doubles[:2], ADAM, SGD, objective(), scale_updates="adam")  # type: ignore[arg-type]
