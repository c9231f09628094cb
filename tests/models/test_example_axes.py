from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pyro import poutine
from torch import nn
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ReweightedTrace_ELBO
from blob_pyro.infer.posterior_functions import DrawsAtOnce
from blob_pyro.lora import unbayesianize
from blob_pyro.models import BayesianLora, SequenceClassifier
from blob_pyro.models.example_axes import _axis
from blob_pyro.posthoc import laplace, linearised_logits
from blob_pyro.poutine import flipout

ENCODER: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_labels": 3,
    "initializer_range": 0.2,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DEBERTA = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["c2p", "p2c"],
    "share_att_key": True,
}
XLNET: dict[str, Any] = {
    "vocab_size": 60,
    "d_model": 16,
    "n_layer": 2,
    "n_head": 2,
    "d_inner": 24,
    "num_labels": 3,
    "initializer_range": 0.2,
    "dropout": 0.0,
}
TIME_FIRST = {
    "longformer": (
        lambda: LongformerForSequenceClassification(
            LongformerConfig(**ENCODER, attention_window=4)
        ),
        ["query", "value"],
    ),
    "xlnet": (lambda: XLNetForSequenceClassification(XLNetConfig(**XLNET)), ["layer_1"]),
}


def deberta() -> nn.Module:
    return DebertaV2ForSequenceClassification(DebertaV2Config(**ENCODER, **DEBERTA))


def classifier(network: nn.Module, targets: list[str]) -> SequenceClassifier:
    config = LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4, target_modules=targets)
    net = get_peft_model(network, config)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return SequenceClassifier(net, num_data=8)


@pytest.fixture(params=TIME_FIRST)
def time_first(request: pytest.FixtureRequest) -> SequenceClassifier:
    make, targets = TIME_FIRST[request.param]
    return classifier(make(), targets).eval()


def batch(rows: int) -> dict[str, torch.Tensor]:
    # As many tokens as rows or a multiple, so that the wrong axis would not be noticed.
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 60, (rows, 12), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def peft_logits(model: SequenceClassifier, weights: Any, **inputs: Any) -> torch.Tensor:
    """The oracle: unmodified PEFT with one draw."""
    net = unbayesianize(copy.deepcopy(model.network), weights).eval()
    with torch.no_grad():
        return net(**inputs).logits


def test_draws_in_one_pass_are_pefts_where_time_comes_first(
    time_first: SequenceClassifier,
) -> None:
    guide = LowRankGaussianGuide(time_first, init_scale=1.0)
    draws = guide.draws(3)
    with torch.no_grad():
        found = DrawsAtOnce(time_first, draws, 3).logits(batch(2))
    expected = torch.stack([peft_logits(time_first, draw, **batch(2)) for draw in draws])
    assert (expected - expected.mean(0)).abs().max() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_flipout_gives_each_text_its_own_weight_where_time_comes_first(
    time_first: SequenceClassifier,
) -> None:
    guide = LowRankGaussianGuide(time_first, init_scale=1.0)
    inputs = batch(3)
    time_first.example_axes()
    with flipout():
        draws = poutine.trace(guide).get_trace(**inputs)
        found = poutine.replay(time_first, draws)(**inputs).detach()
    shown = [
        {
            name: _weight_of(site.projection, row, len(inputs["input_ids"]))
            for name, site in time_first.sites.items()
        }
        for row in range(3)
    ]
    for row, weights in enumerate(shown):
        alone = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        expected = peft_logits(time_first, weights, **alone)
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-5, rtol=1e-4)
    assert not any(torch.equal(a, b) for a, b in zip(*map(dict.values, shown[:2]), strict=True))


def _weight_of(projection: Any, row: int, rows: int) -> torch.Tensor:
    """The weight of a row, read off by giving unit vectors in the layer's own order of axes."""
    features = projection.in_features
    units = torch.eye(features)[:, None].expand(-1, rows, -1)
    with projection.use.running():
        return projection(units)[:, row].mT.detach().contiguous()


def test_the_linearised_covariance_is_autograds_where_time_comes_first(
    time_first: SequenceClassifier,
) -> None:
    model = time_first.double()
    inputs = batch(3)
    guide = laplace(model, [{**inputs, "labels": torch.tensor([0, 1, 2])}], progress=False)
    mean = guide.mean()

    def logits(*values: torch.Tensor) -> torch.Tensor:
        with poutine.block():
            return poutine.condition(model, dict(zip(mean, values, strict=True)))(**inputs)

    jacobians = torch.autograd.functional.jacobian(logits, tuple(mean.values()))
    expected = torch.zeros(3, 3, 3, dtype=torch.float64)
    for name, jacobian in zip(mean, jacobians, strict=True):
        root = guide.site_posterior(name).scaled(jacobian).flatten(2)
        expected += root @ root.mT
    _, covariance = linearised_logits(model, guide, inputs)
    torch.testing.assert_close(covariance, expected.detach(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("use", ["flipout", "parallel", "laplace"])
def test_rows_that_all_texts_share_are_refused_by_the_layers_name(use: str) -> None:
    model = classifier(deberta(), ["query_proj"])
    guide = LowRankGaussianGuide(model)
    labelled = {**batch(3), "labels": torch.tensor([0, 1, 2])}
    with pytest.raises(ValueError, match=r"layer 'base_.*query_proj.*target_modules"):  # noqa: PT012
        if use == "flipout":
            with flipout():
                ReweightedTrace_ELBO(num_batches=1)(model, guide)(**labelled)
        elif use == "parallel":
            DrawsAtOnce(model, guide.draws(2), True)
        else:
            laplace(model, [labelled], progress=False)


def test_one_draw_a_pass_needs_no_axis() -> None:
    model = classifier(deberta(), ["query_proj"]).eval()
    (draw,) = LowRankGaussianGuide(model, init_scale=1.0).draws(1)
    with torch.no_grad():
        found = poutine.condition(model, draw)(**batch(3))
    torch.testing.assert_close(found, peft_logits(model, draw, **batch(3)))


def test_the_trial_leaves_nothing_behind() -> None:
    model = classifier(deberta(), ["value_proj"]).train()
    model.network.get_base_model().classifier.eval()  # a module that the user froze
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state, expected = torch.get_rng_state(), torch.rand(3)
    torch.set_rng_state(state)
    with poutine.trace() as tracer:
        model.example_axes()
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert not tracer.trace.nodes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(site.projection._applied is None for site in model.sites.values())
    assert not any(module._forward_pre_hooks for module in model.network.modules())


def test_only_one_order_of_axes_shows_the_texts() -> None:
    texts = torch.randn(5, 7, 4)
    texts[4] = texts[0]
    assert _axis(texts) == 0
    assert _axis(texts.transpose(0, 1)) == 1
    assert _axis(texts.flatten(0, 1)) == 0
    assert _axis(texts.transpose(0, 1).flatten(0, 1)) is None  # tokens in turn
    assert _axis(texts[:1]) is None
    routed = torch.cat([text[: k + 1] for k, text in enumerate(texts)])  # 15 rows
    assert _axis(routed) is None
    assert _axis(torch.ones(5, 7, 4)) is None


class Regression(BayesianLora):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        num_draws = self.draw(x.shape)
        return self.network(x.repeat(num_draws, 1)).reshape(num_draws, len(x), -1)


def test_a_network_that_reads_no_text_has_its_examples_first() -> None:
    config = LoraConfig(r=1, target_modules=["0"], init_lora_weights=False)
    model = Regression(get_peft_model(nn.Sequential(nn.Linear(4, 2)), config), 9)
    guide = PointEstimateGuide(model)
    with flipout():
        assert poutine.replay(model, poutine.trace(guide).get_trace())(torch.randn(9, 4)).dim()
    assert set(model.example_axes().values()) == {0}
