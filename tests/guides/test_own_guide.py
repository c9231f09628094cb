"""A guide as a user writes one: everything that takes a guide takes it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from typing_extensions import override

from blob_pyro import load_posterior, save_posterior
from blob_pyro.guides import LoraGuide, LowRankGaussianGuide, SiteParameters
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.posthoc import calibrate, ensemble


class LaplaceDistributedGuide(LoraGuide):
    """A Laplace distribution for every entry, of one width a site."""

    def __init__(self, model: Any, width: float = 0.1) -> None:
        super().__init__(model)
        self.width = width
        self.log_width = SiteParameters({name: torch.tensor(width).log() for name in model.sites})

    @override
    def site_posterior(self, name: str) -> Any:
        loc = self.M[name]
        return dist.Laplace(loc, self.log_width[name].exp().expand_as(loc)).to_event(2)

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        return {
            name: (2**0.5 * self.log_width[name].exp()).detach().expand_as(self.M[name])
            for name in self.sites
        }

    @override
    def config(self) -> dict[str, Any]:
        return {"width": self.width}


def logits(model: Any, guide: Any, batch: Any) -> torch.Tensor:
    predictive = posterior_predictive(model, guide, [batch], 4, seed=0, progress=False)
    return predictive["logits"]


def test_it_predicts_calibrates_ensembles_saves_and_loads(tmp_path: Path, token_batch: Any) -> None:
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    )
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    model = LabelTokenClassifier(get_peft_model(copy.deepcopy(base), lora), [7, 9, 11], 8).eval()
    for site in model.sites.values():
        torch.nn.init.normal_(site.lora_B)
    batch = token_batch()
    guide = LaplaceDistributedGuide(model, width=0.5)
    guide.log_width[next(iter(guide.sites))].data.fill_(-0.3)
    draws = guide.draws(4)
    assert len(draws) == 4
    assert {*draws[0]} == {*guide.sites}
    calibrate(model, guide, [batch], num_samples=4)
    before = logits(model, guide, batch)
    assert before.std(dim=0).min() > 0
    save_posterior(tmp_path / "own", model, guide)
    loaded = load_posterior(tmp_path / "own", copy.deepcopy(base))
    assert type(loaded[1]) is LaplaceDistributedGuide
    assert torch.equal(logits(*loaded, batch), before)
    together = ensemble([loaded])
    save_posterior(tmp_path / "ensemble", *together)
    again = load_posterior(tmp_path / "ensemble", copy.deepcopy(base))
    assert torch.equal(logits(*again, batch), logits(*together, batch))


def test_a_name_of_the_librarys_is_taken() -> None:
    with pytest.raises(TypeError, match="blob_pyro has a guide 'LowRankGaussianGuide'"):
        type("LowRankGaussianGuide", (LowRankGaussianGuide,), {})
