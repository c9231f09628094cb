"""Pyro's own guides train the same models unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoNormal
from pyro.optim import Adam

from blob_pyro.infer import ReweightedTrace_ELBO

GUIDES: dict[str, Any] = {
    "AutoNormal": AutoNormal,
    "AutoDelta": AutoDelta,
    "AutoLowRankMultivariateNormal": lambda model: AutoLowRankMultivariateNormal(model, rank=2),
}
ELBOS: dict[str, Any] = {
    "ReweightedTrace_ELBO": lambda: ReweightedTrace_ELBO(1, kl_scale=0.01),
    "Trace_ELBO": Trace_ELBO,
}


@pytest.mark.parametrize(("name", "task_type"), [("llama", "CAUSAL_LM"), ("bert", "SEQ_CLS")])
@pytest.mark.parametrize("objective", ELBOS)
@pytest.mark.parametrize("autoguide", GUIDES)
def test_the_loss_falls(
    autoguide: str, objective: str, name: str, task_type: str, classifier: Any, token_batch: Any
) -> None:
    model, batch, elbo = classifier(name, task_type), token_batch(), ELBOS[objective]()
    guide = GUIDES[autoguide](model)
    svi = SVI(model, guide, Adam({"lr": 0.02}), elbo)

    def losses() -> torch.Tensor:
        return torch.tensor([svi.evaluate_loss(**batch) for _ in range(20)])

    guide(**batch)
    before = losses()
    for _ in range(40):
        svi.step(**batch)
    after = losses()
    # Above 6 standard errors of the difference: without training 1 seed in 10^9 gets here.
    error = ((before.var() + after.var()) / 20).sqrt()
    assert before.mean() - after.mean() > 6 * error
    predictive = Predictive(model, guide=guide, num_samples=5, return_sites=("logits",))
    del batch["labels"]
    assert predictive(**batch)["logits"].shape == (5, 4, 3)
