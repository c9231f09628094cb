"""Models whose ``A`` and ``B`` are latent, under the guides that know nothing about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from blob_pyro.files import load_posterior, save_posterior
from blob_pyro.guides import (
    FullCovarianceGuide,
    LoraGuide,
    LowRankGaussianGuide,
    MatrixNormalGuide,
    PointEstimateGuide,
    model_at_mean,
)
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.lora import unbayesianize
from blob_pyro.models import LabelTokenClassifier, SequenceClassifier
from blob_pyro.poutine import flipout

LATENT = ("A", "B")


@pytest.fixture
def model(peft_network: Any) -> LabelTokenClassifier:
    return LabelTokenClassifier(peft_network("llama"), [7, 9, 11], 8, latent=LATENT)


def spread(guide: LowRankGaussianGuide) -> LowRankGaussianGuide:
    for name in guide.sites:
        guide.M[name].data.normal_()
        guide.G[name].data.uniform_(0.3, 0.9)
    return guide


def by_layer(guide: LoraGuide) -> list[tuple[str, str]]:
    names = list(guide.sites)
    return list(zip(names[::2], names[1::2], strict=True))


def test_each_layer_has_two_sites_and_no_point_estimate(model: Any, token_batch: Any) -> None:
    names = list(model.sites)
    assert len(names) == 8
    for down, up in by_layer(PointEstimateGuide(model)):
        assert up == down.replace("lora_A", "lora_B")
        assert model.sites[up].projection.initial_weight.abs().max() > 0
        assert model.sites[up].projection.in_features == 2
    trace = poutine.trace(model).get_trace(**token_batch())
    assert [name for name in trace.nodes if "lora" in name] == names
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_at_the_mean_the_network_is_peft_s(model: Any, token_batch: Any) -> None:
    guide = spread(LowRankGaussianGuide(model))
    batch, mean = token_batch(), guide.mean()
    found = posterior_predictive(model, guide, [batch], 0, progress=False)["logits"][0]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = unbayesianize(model.network, mean).eval()(**inputs).logits
    last = batch["attention_mask"].sum(dim=1) - 1
    expected = logits[torch.arange(len(last)), last][:, [7, 9, 11]]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_weight_moments_are_those_of_draws(name: str, peft_network: Any, z_score: Any) -> None:
    # 2 x 4 layers of 256 entries or less within 4.75 standard errors: fails 1 seed in 200.
    model = LabelTokenClassifier(peft_network(name), [7, 9], 8, latent=LATENT).double()
    guide = spread(LowRankGaussianGuide(model))
    draws = [guide() for _ in range(2000)]
    for down, up in by_layer(guide)[:2]:
        sample = guide.sites[down].scaling * torch.stack([d[up] @ d[down] for d in draws]).detach()
        mean, deviation = guide.weight_moments(down)
        assert z_score(sample, mean) < 4.75
        assert z_score((sample - mean).square(), deviation.square()) < 4.75
        assert z_score((sample - mean).square(), 1.21 * deviation.square()) > 4.75


def test_weight_moments_are_asked_of_A(model: Any) -> None:
    _, up = by_layer(guide := LowRankGaussianGuide(model))[0]
    with pytest.raises(ValueError, match=r"lora_B.weight' is not a site of a matrix A; ask for"):
        guide.weight_moments(up)


@pytest.mark.parametrize("guide_class", [MatrixNormalGuide, FullCovarianceGuide])
def test_correlated_entries_of_B_have_no_weight_moments(guide_class: Any, model: Any) -> None:
    guide = guide_class(model)
    down, _ = by_layer(guide)[0]
    with pytest.raises(ValueError, match=rf"correlated in a {guide_class.__name__}.*average over"):
        guide.weight_moments(down)


def test_draws_in_parallel_are_those_of_the_loop(model: Any, token_batch: Any) -> None:
    guide = spread(LowRankGaussianGuide(model))
    loop, together = (
        posterior_predictive(model, guide, [token_batch()], 3, 5, parallel=at_once, progress=False)
        for at_once in (False, 3)
    )
    torch.testing.assert_close(loop["logits"], together["logits"], atol=1e-5, rtol=0)
    assert (loop["logits"][0] - loop["logits"][1]).abs().max() > 1e-2
    batch = {k: v for k, v in token_batch().items() if k != "labels"}
    predictive = Predictive(model, guide=guide, num_samples=3, return_sites=("logits",))
    assert predictive(**batch)["logits"].shape == (3, 4, 3)


def test_flipout_flips_the_signs_of_both(model: Any, token_batch: Any) -> None:
    guide = LowRankGaussianGuide(model, init_scale=1)
    batch = {name: tensor[:1].repeat(4, 1) for name, tensor in list(token_batch().items())[:2]}
    for down, up in by_layer(guide):
        # With A near its mean, the noise comes through B.
        guide.G[down].data.fill_(1e-3)
        guide.M[up].data.normal_()
    with flipout():
        trace = poutine.trace(guide).get_trace()
        logits = poutine.replay(model, trace=trace)(**batch)
    assert (logits[0] - logits[1]).abs().max() > 1e-2
    elbo = ReweightedTrace_ELBO(1)
    with flipout():
        elbo.loss_and_grads(model, guide, **token_batch())
    assert all(parameter.grad is not None for parameter in guide.parameters())


def test_saved_and_loaded_bit_for_bit(base_folder: str, token_batch: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    from blob_pyro.networks import load_causal_lm

    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    net = get_peft_model(load_causal_lm(base_folder), config)
    model = LabelTokenClassifier(net, [7, 9, 11], 8, latent=LATENT)
    guide = spread(LowRankGaussianGuide(model))
    save_posterior(tmp_path / "posterior", model, guide)
    loaded, loaded_guide = load_posterior(tmp_path / "posterior")
    assert loaded.latent == LATENT
    for name, value in guide.state_dict().items():
        assert torch.equal(loaded_guide.state_dict()[name], value)
    plain = PeftModel.from_pretrained(load_causal_lm(base_folder), tmp_path / "posterior")
    weights = {name.replace(".default", ""): p for name, p in plain.named_parameters()}
    for name, mean in guide.mean().items():
        assert torch.equal(weights[name], mean)
    predicted = [
        posterior_predictive(*program, [token_batch()], 2, 0, progress=False)["logits"]
        for program in ((model, guide), (loaded, loaded_guide))
    ]
    assert torch.equal(*predicted)


@pytest.mark.parametrize("task_type", ["CAUSAL_LM", "SEQ_CLS"])
def test_a_fitted_point_becomes_a_program_of_both_matrices(
    task_type: str, classifier: Any, token_batch: Any
) -> None:
    fitted = classifier("llama", task_type).eval()
    guide = PointEstimateGuide(fitted)
    for name in guide.sites:
        guide.M[name].data.normal_()
    batch = token_batch()
    expected = posterior_predictive(fitted, guide, [batch], 0, progress=False)["logits"]
    heads = {name: p.clone() for name, p in fitted.network.named_parameters() if "score" in name}
    model = model_at_mean(fitted, guide)
    assert type(model) is type(fitted)
    assert (model.num_data, model.prior, model.training) == (8, fitted.prior, False)
    found = posterior_predictive(model, PointEstimateGuide(model), [batch], 0, progress=False)
    torch.testing.assert_close(found["logits"], expected, atol=1e-6, rtol=0)
    for name, parameter in model.network.named_parameters():
        if "score" in name:
            assert torch.equal(parameter, heads[name])
    back = model_at_mean(model, PointEstimateGuide(model), ("A",))
    assert all("lora_A" in name for name in back.sites)
    again = posterior_predictive(back, PointEstimateGuide(back), [batch], 0, progress=False)
    torch.testing.assert_close(again["logits"], expected, atol=1e-6, rtol=0)


def test_a_net_that_is_bayesian_in_A_only_is_refused(peft_network: Any) -> None:
    net = peft_network("llama", "SEQ_CLS")
    SequenceClassifier(net, 4)
    with pytest.raises(ValueError, match=r"latents \('A',\) but the model was given latent=\('A'"):
        SequenceClassifier(net, 4, latent=LATENT)
