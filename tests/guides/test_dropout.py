from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from pyro import poutine

from blob_pyro.guides import DropoutGuide
from blob_pyro.infer import ReweightedTrace_ELBO, posterior_predictive
from blob_pyro.lora import unbayesianize
from blob_pyro.models import LabelTokenClassifier

RATE = 0.3


@pytest.fixture
def model(classifier: Any) -> Any:
    return classifier("llama", lora_dropout=RATE)


def test_a_draw_is_peft_with_that_mask_on_its_input(model: Any, token_batch: Any) -> None:
    """The mask by hand, as a hook on the dropout of unmodified PEFT."""
    guide, batch = DropoutGuide(model.eval()), token_batch()
    draws = guide()
    found = poutine.condition(model, draws)(**batch)
    masks = {}
    for name, draw in draws.items():
        ratio = draw / guide.M[name].detach()
        assert torch.equal(ratio[0].round(decimals=4), ratio[1].round(decimals=4))
        masks[name.removesuffix(".lora_A.weight")] = ratio[0].detach()
    assert {round(float(v), 3) for mask in masks.values() for v in mask} == {0.0, 1.429}
    net = unbayesianize(model.network)
    for name, mask in masks.items():
        dropout = net.get_submodule(name).lora_dropout["default"]
        dropout.register_forward_hook(lambda _, inputs, __, mask=mask: inputs[0] * mask)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = net(**inputs).logits
    last = batch["attention_mask"].sum(dim=1) - 1
    expected = logits[torch.arange(len(last)), last][:, [7, 9, 11]]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_training_is_that_of_peft_with_dropout(
    classifier: Any, peft_network: Any, token_batch: Any
) -> None:
    def steps(parameters: Any, loss: Any) -> None:
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        for step in range(5):
            optimizer.zero_grad()
            pyro.set_rng_seed(step)
            loss(token_batch(seed=step)).backward()
            optimizer.step()

    pyro.set_rng_seed(3)
    net = peft_network("llama", lora_dropout=RATE)
    trainable = {name: p for name, p in net.named_parameters() if p.requires_grad}

    def plain(batch: Any) -> torch.Tensor:
        logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        last = batch["attention_mask"].sum(dim=1) - 1
        logits = logits[torch.arange(len(last)), last][:, [7, 9, 11]]
        return torch.nn.functional.cross_entropy(logits, batch["labels"])

    # Without padding both run on the very same rows, so that the masks of the tokens are the same.
    unpadded = {"attention_mask": torch.ones(4, 6, dtype=torch.long)}
    steps(trainable.values(), lambda batch: plain({**batch, **unpadded}))
    pyro.set_rng_seed(3)
    model = classifier("llama", lora_dropout=RATE).train()
    guide = DropoutGuide(model)
    elbo = ReweightedTrace_ELBO(3, kl_scale=0.0, per_datum=True)(model, guide)
    ours = [parameter for parameter in elbo.parameters() if parameter.requires_grad]
    steps(ours, lambda batch: elbo(**{**batch, **unpadded}))
    fitted = dict(unbayesianize(model.network, guide.mean()).named_parameters())
    for name, parameter in trainable.items():
        torch.testing.assert_close(fitted[name], parameter, atol=1e-5, rtol=0)


def test_moments_are_those_of_draws(model: Any, z_score: Any) -> None:
    # 256 entries or fewer, four tests a layer, within 4.75 standard errors: fails 1 seed in 250.
    guide = DropoutGuide(model.double().eval())
    name, site = next(iter(guide.sites.items()))
    draws = torch.stack([guide()[name].detach() for _ in range(3000)])
    assert z_score(draws, guide.mean()[name]) < 4.75
    assert z_score((draws - guide.mean()[name]).square(), guide.scale()[name].square()) < 4.75
    mean, deviation = guide.weight_moments(name)
    updates = site.scaling * site.lora_B.detach() @ draws
    assert z_score(updates, mean) < 4.75
    assert z_score((updates - mean).square(), deviation.square()) < 4.75


def test_one_mask_a_draw_for_the_whole_data_set(model: Any, token_batch: Any) -> None:
    guide, batches = DropoutGuide(model), [token_batch(), token_batch()]
    together = posterior_predictive(model, guide, batches, 3, 0, parallel=3, progress=False)
    loop = posterior_predictive(model, guide, batches, 3, 0, progress=False)
    torch.testing.assert_close(loop["logits"], together["logits"], atol=1e-5, rtol=0)
    assert torch.equal(loop["logits"][:, :4], loop["logits"][:, 4:])
    assert not torch.allclose(loop["logits"][0], loop["logits"][1])


def test_a_latent_B_is_a_point(peft_network: Any) -> None:
    net = peft_network("llama", lora_dropout=RATE)
    guide = DropoutGuide(LabelTokenClassifier(net, [7, 9], 4, latent=("A", "B")).eval())
    name = next(name for name in guide.sites if "lora_B" in name)
    assert torch.equal(guide()[name], guide.mean()[name])
    assert float(guide.scale()[name].abs().max()) == 0


def test_a_layer_without_dropout_is_refused(classifier: Any) -> None:
    with pytest.raises(ValueError, match=r"the layer's lora_dropout is 0.0.*lora_dropout=0.1"):
        DropoutGuide(classifier("llama"))
