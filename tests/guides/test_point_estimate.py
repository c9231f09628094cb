from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from torch.distributions import Normal

from blob_pyro.guides import PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.lora import unbayesianize

Batch = dict[str, torch.Tensor]
LABEL_TOKENS = [7, 9, 11]
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
}


def plain_loss(net: Any, batch: Batch, task_type: str) -> torch.Tensor:
    """Cross entropy of unmodified PEFT, at each text's last real token if it answers with one."""
    logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    if task_type == "CAUSAL_LM":
        last = batch["attention_mask"].sum(dim=1) - 1
        logits = logits[torch.arange(len(last)), last][:, LABEL_TOKENS]
    return torch.nn.functional.cross_entropy(logits, batch["labels"])


def train(loss: Callable[[Batch], torch.Tensor], optimizer: Any, token_batch: Any) -> None:
    for step in range(20):
        optimizer.zero_grad()
        loss(token_batch(seed=step % 3)).backward()
        optimizer.step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_without_the_kl_is_plain_lora(
    optimizer: str,
    architecture: tuple[str, str],
    classifier: Any,
    peft_network: Any,
    token_batch: Any,
) -> None:
    pyro.set_rng_seed(3)
    net = peft_network(*architecture)
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trainable]
    task_type = architecture[1]
    train(
        lambda batch: plain_loss(net, batch, task_type),
        OPTIMIZERS[optimizer](trainable),
        token_batch,
    )

    pyro.set_rng_seed(3)
    model = classifier(*architecture)
    guide = PointEstimateGuide(model)
    elbo = ReweightedTrace_ELBO(3, kl_scale=0.0, per_datum=True)(model, guide)
    ours = [parameter for parameter in elbo.parameters() if parameter.requires_grad]
    train(lambda batch: elbo(**batch), OPTIMIZERS[optimizer](ours), token_batch)

    fitted = dict(unbayesianize(model.network, guide.mean()).named_parameters())
    expected = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert len(ours) == len(expected)
    for (name, parameter), start in zip(expected.items(), before, strict=True):
        assert (parameter - start).abs().max() > 1e-3, name
        torch.testing.assert_close(fitted[name], parameter, atol=1e-5, rtol=0)


def test_a_draw_is_the_mean(classifier: Any) -> None:
    guide = PointEstimateGuide(classifier("llama"))
    draws = guide()
    for name, mean in guide.mean().items():
        assert torch.equal(draws[name], mean)
        assert torch.equal(guide.scale()[name], torch.zeros_like(mean))
        assert torch.equal(
            guide.weight_moments(name)[1], torch.zeros(16 if "q_" in name else 8, 16)
        )


def test_the_kl_is_minus_the_log_prior(classifier: Any) -> None:
    guide = PointEstimateGuide(classifier("llama", prior_scale=0.3).double())
    prior = Normal(torch.zeros((), dtype=torch.float64), 0.3)
    expected = -sum(prior.log_prob(mean).sum() for mean in guide.mean().values())
    torch.testing.assert_close(guide.kl(), expected, atol=1e-9, rtol=0)


def test_config_makes_the_same_guide(classifier: Any) -> None:
    model = classifier("llama")
    guide = PointEstimateGuide(model)
    assert guide.config() == {}
    assert PointEstimateGuide(model, **guide.config()).config() == {}
