from __future__ import annotations

from typing import Any

import torch

from blob_pyro.infer import PosteriorFunctions, posterior_predictive


def test_later_batches_meet_the_same_functions(program: Any, token_batch: Any) -> None:
    model, guide = program("llama")
    batches = [token_batch(3, seed=seed) for seed in range(4)]
    wanted = posterior_predictive(model, guide, batches, 5, seed=3, progress=False)["logits"]
    functions = PosteriorFunctions(model, guide, batches[0], 5, seed=3)
    torch.rand(7)
    got = torch.cat([functions(batch) for batch in batches], dim=1)
    assert torch.equal(got, wanted)
    assert torch.equal(functions(batches[2]), wanted[:, 6:9])


def test_calls_leave_nothing_behind(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    model.train()
    batch = token_batch(2)
    before = torch.get_rng_state()
    functions = PosteriorFunctions(model, guide, batch, 2, seed=0)
    logits = functions(batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not logits.requires_grad


def test_without_a_seed_the_global_state_decides(program: Any, token_batch: Any) -> None:
    model, guide = program("bert")
    batch = token_batch(2)
    torch.manual_seed(5)
    first, second = (PosteriorFunctions(model, guide, batch, 2) for _ in range(2))
    assert not torch.equal(first(batch), second(batch))
    torch.manual_seed(5)
    assert torch.equal(PosteriorFunctions(model, guide, batch, 2)(batch), first(batch))
