"""Several Bayesian adapters in one network, switched by name."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyro
import pytest
import torch
from peft import LoraConfig, get_peft_model
from pyro import poutine
from pyro.infer import SVI

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.poutine import flipout

TOKENS = [7, 9, 11]


@pytest.fixture
def two(peft_network: Any) -> Any:
    """Give a network and its two models; ``second`` is the active adapter."""
    net = peft_network("llama", target_modules=["q_proj", "v_proj", "lm_head"])
    models = {"default": LabelTokenClassifier(net, TOKENS, 8)}
    targets = ["q_proj", "o_proj"]
    net.add_adapter("second", LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=targets))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_B.second" in name:
                parameter.normal_(std=0.3)
    net.set_adapter("second")
    models["second"] = LabelTokenClassifier(net, TOKENS, 8, 0.5, "second")
    return net, models


def test_each_model_has_the_sites_and_the_prior_of_its_adapter(two: Any) -> None:
    _, models = two
    ranks = {
        name: {site.projection.out_features for site in model.sites.values()}
        for name, model in models.items()
    }
    assert ranks == {"default": {2}, "second": {3}}
    assert [len(model.sites) for model in models.values()] == [5, 4]
    assert [model.prior.scale for model in models.values()] == [0.2, 0.5]


def test_a_switched_model_predicts_as_it_did_alone(
    two: Any, peft_network: Any, token_batch: Any, plain_logits: Any
) -> None:
    net, models = two
    batch = token_batch()
    for name in ("default", "second", "default"):
        net.set_adapter(name)
        model = models[name].eval()
        mean = LowRankGaussianGuide(model).mean()
        program = poutine.condition(model, {site: 2 * value for site, value in mean.items()})
        logits = program(**batch)
        # The network, whose projections still hold that draw.
        with model.use.running():
            expected = plain_logits(net, batch, TOKENS)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        plain = poutine.condition(model, mean)(**batch)
        assert (plain - logits).abs().max() > 1e-3


def test_a_model_whose_adapter_is_not_active_says_so(two: Any, token_batch: Any) -> None:
    net, models = two
    message = "active adapter is second, not default, .* call model.network.set_adapter.'default'"
    with pytest.raises(ValueError, match=message):
        models["default"](**token_batch())
    with net.disable_adapter(), pytest.raises(ValueError, match="is disabled, so its draws"):
        models["default"](**token_batch())
    net.set_adapter("default")
    models["default"](**token_batch())


def test_a_model_beside_whose_adapter_another_is_active_says_so(two: Any, token_batch: Any) -> None:
    net, models = two
    net.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match="active adapter is default, second, not default"):
        models["default"](**token_batch())


def test_an_adapter_that_is_switched_in_the_middle_of_a_pass_is_noticed(
    two: Any, token_batch: Any
) -> None:
    net, models = two
    net.set_adapter("default")
    draws = LowRankGaussianGuide(models["default"]).draws(1)
    # As another thread may, which serves the other posterior.
    switched = net.register_forward_hook(lambda *_: net.set_adapter("second"))
    with switched, pytest.raises(ValueError, match="active adapter is second, not default"):
        models["default"].logits_under(draws, **token_batch())


@pytest.mark.filterwarnings("ignore:You are trying", "ignore:Already found")
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["v_proj"]])
def test_a_model_whose_adapter_was_replaced_says_so(
    targets: list[str], peft_network: Any, token_batch: Any
) -> None:
    net = peft_network("llama")
    first = LabelTokenClassifier(net, TOKENS, 8)
    draws = LowRankGaussianGuide(first).draws(1)
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets)
    get_peft_model(net.get_base_model(), lora)
    for predict in (first, partial(first.logits_under, draws)):
        with pytest.raises(ValueError, match="adapter 'default' is another one by now"):
            predict(**token_batch())


def test_training_one_leaves_the_other_alone(two: Any, token_batch: Any) -> None:
    net, models = two
    guides = {name: LowRankGaussianGuide(model) for name, model in models.items()}
    before = {
        name: [
            *(p.detach().clone() for p in guides[name].parameters()),
            *(site.lora_B.detach().clone() for site in models[name].sites.values()),
        ]
        for name in models
    }
    net.set_adapter("default")
    elbo = ReweightedTrace_ELBO(num_batches=1)
    svi = SVI(models["default"], guides["default"], pyro.optim.Adam({"lr": 0.01}), elbo)
    for _ in range(2):
        with flipout():
            svi.step(**token_batch())
    changed = {
        name: [
            not torch.equal(old, new)
            for old, new in zip(
                before[name],
                [
                    *guides[name].parameters(),
                    *(site.lora_B for site in models[name].sites.values()),
                ],
                strict=True,
            )
        ]
        for name in models
    }
    assert all(changed["default"])
    assert not any(changed["second"])
