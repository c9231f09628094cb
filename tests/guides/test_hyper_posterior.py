from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import DecoupledSVI, ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.lora import HierarchicalNormalPrior
from blob_pyro.models import SequenceClassifier
from blob_pyro.poutine import flipout


@pytest.fixture(params=["model", "site"])
def hierarchical(request: Any, peft_network: Any) -> tuple[Any, Any]:
    prior = HierarchicalNormalPrior(0.4, request.param)
    model = SequenceClassifier(peft_network("bert", "SEQ_CLS"), num_data=8, prior=prior).double()
    return model, LowRankGaussianGuide(model, init_scale=0.25).double()


def hyper_names(model: Any) -> list[str]:
    trace = poutine.trace(model.sample_latents).get_trace()
    return [name for name in trace.stochastic_nodes if name not in model.sites]


def test_the_guide_covers_every_site_of_the_prior(hierarchical: Any, token_batch: Any) -> None:
    model, guide = hierarchical
    draws = guide()
    names = hyper_names(model)
    assert set(draws) == {*model.sites, *names}
    assert all(draws[name] > 0 for name in names)
    # The mean is that of the adapter, which has no place for a scale.
    assert set(guide.mean()) == set(guide.scale()) == set(model.sites)


def test_it_starts_near_the_priors_median(hierarchical: Any, z_score: Any) -> None:
    _, guide = hierarchical
    draws = [torch.stack(list(guide.hyper().values())) for _ in range(200)]
    # The median of HalfNormal(0.4) is 0.27; Pyro takes that of 15 draws, whose standard error is
    # about 0.13 / sqrt(15) * 1.25 = 0.085.
    assert (torch.stack(draws).mean() - 0.27).abs() < 4 * 0.085


@pytest.mark.parametrize("vectorize", [False, True])
def test_loss_and_gradient_have_the_expectation_of_pyros(
    vectorize: bool, hierarchical: Any, token_batch: Any, z_scores: Any
) -> None:
    model, guide = hierarchical
    batch = token_batch(4)
    options: Any = {
        "num_particles": 20 if vectorize else 3,
        "vectorize_particles": vectorize,
        "max_plate_nesting": 1,
    }  # fmt: skip
    leaves = [*guide.hyper.parameters(), next(guide.G.parameters())]

    def rows(elbo: Any) -> torch.Tensor:
        found = []
        for _ in range(30):
            loss = elbo.differentiable_loss(model, guide, **batch)
            gradients = torch.autograd.grad(loss, leaves)
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            # The root's gradient as a sum: thirty components would need a wider tolerance.
            found.append(torch.cat([loss.detach()[None], flat[: -leaves[-1].numel()],
                                    flat[-leaves[-1].numel() :].sum()[None]]))  # fmt: skip
        return torch.stack(found)

    ours = rows(ReweightedTrace_ELBO(1, "uniform", **options))
    pyros = rows(Trace_ELBO(**options))
    # Means of 30, at most 10 components: beyond 5.5 standard errors in 1 seed of 10^4.
    assert z_scores(ours, pyros).max() < 5.5


def test_kl_is_that_of_the_densities_on_average(hierarchical: Any, z_scores: Any) -> None:
    model, guide = hierarchical

    def of_a_draw() -> torch.Tensor:
        guide_trace = poutine.trace(guide).get_trace()
        prior_trace = poutine.trace(
            poutine.replay(model.sample_latents, trace=guide_trace)
        ).get_trace()
        return (guide_trace.log_prob_sum() - prior_trace.log_prob_sum()).detach()

    ours = torch.stack([guide.kl().detach() for _ in range(300)])[:, None]
    # One component, 300 draws: beyond 4.5 standard errors in 1 seed of 10^5.
    assert z_scores(ours, torch.stack([of_a_draw() for _ in range(300)])[:, None]).max() < 4.5


def test_the_scale_learns_from_the_weights(hierarchical: Any) -> None:
    # Means far from zero: the posterior of the prior's scale has to move up to them.
    _, guide = hierarchical
    with torch.no_grad():
        for mean in guide.M.parameters():
            mean.fill_(1.0)
    optimizer = torch.optim.Adam(guide.hyper.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        guide.kl().backward()
        optimizer.step()
    # Of 32 weights near 1 under HalfNormal(0.4): the mode of the shared scale lies near 0.75
    # (two sites' 64 weights: 0.85), that of its own scale for each site at most a little below.
    for value in guide.hyper().values():
        assert 0.5 < value < 1.2


@pytest.mark.parametrize("kind", ["svi", "decoupled", "autonormal"])
def test_every_way_of_training_learns(kind: str, hierarchical: Any, token_batch: Any) -> None:
    model, guide = hierarchical
    batch = token_batch(6)
    elbo = ReweightedTrace_ELBO(1, kl_scale=1e-2, per_datum=True)
    svi: Any
    if kind == "decoupled":
        adam = lambda parameters: torch.optim.AdamW(parameters, lr=3e-2)  # noqa: E731
        sgd = lambda parameters: torch.optim.SGD(parameters, lr=1e-2)  # noqa: E731
        svi = DecoupledSVI(model, guide, adam, sgd, elbo)
    else:
        used = AutoNormal(model, init_scale=0.05) if kind == "autonormal" else guide
        svi = SVI(model, used, pyro.optim.Adam({"lr": 3e-2}), elbo)
    losses = []
    for _ in range(60):
        if kind == "autonormal":
            losses.append(svi.step(**batch))
            continue
        with flipout():
            losses.append(svi.step(**batch))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_draws_together_predict_as_draws_one_by_one(hierarchical: Any, token_batch: Any) -> None:
    model, guide = hierarchical
    one, together = (
        posterior_predictive(
            model, guide, [token_batch(3)], 4, 1, parallel=parallel, progress=False
        )
        for parallel in (False, True)
    )
    torch.testing.assert_close(one, together)
