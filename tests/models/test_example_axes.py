from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pyro import poutine
from torch import nn
from transformers import SwitchTransformersConfig, SwitchTransformersEncoderModel

from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide, linearised_logits
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import BayesianLora, SequenceClassifier
from blob_pyro.models.example_axes import _axis
from blob_pyro.networks import MeanPoolingForSequenceClassification
from blob_pyro.posthoc import laplace
from blob_pyro.poutine import flipout
from tests.models.architectures import peft

TIME_FIRST = ["LongformerForSequenceClassification", "XLNetForSequenceClassification"]
SHARED_ROWS = "DebertaV2ForSequenceClassification"


def classifier(name: str) -> SequenceClassifier:
    return SequenceClassifier(peft(name), num_data=8)


@pytest.fixture(params=TIME_FIRST)
def time_first(request: pytest.FixtureRequest) -> SequenceClassifier:
    return classifier(request.param).eval()


def batch(rows: int) -> dict[str, torch.Tensor]:
    # As many tokens as rows or a multiple, so that the wrong axis would not be noticed.
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 60, (rows, 12), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


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


def test_laplace_refuses_rows_that_all_texts_share_by_the_layers_name() -> None:
    labelled = {**batch(3), "labels": torch.tensor([0, 1, 2])}
    with pytest.raises(ValueError, match=r"layer 'base_.*query_proj.*target_modules"):
        laplace(classifier(SHARED_ROWS), [labelled], progress=False)


def test_draws_go_one_by_one_through_a_network_that_can_not_run_several() -> None:
    model = classifier(SHARED_ROWS)
    program = model, LowRankGaussianGuide(model), [batch(3)], 4, 0
    one_by_one = posterior_predictive(*program, parallel=False, progress=False)
    torch.testing.assert_close(posterior_predictive(*program, progress=False), one_by_one)
    with pytest.raises(ValueError, match=r"layer 'base_.*query_proj.*parallel=False"):
        posterior_predictive(*program, parallel=2, progress=False)


def test_experts_that_get_a_choice_of_the_tokens_are_refused_by_the_layers_name() -> None:
    config = SwitchTransformersConfig(
        vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, num_experts=4,
        num_sparse_encoder_layers=1,
    )  # fmt: skip
    network = MeanPoolingForSequenceClassification(SwitchTransformersEncoderModel(config), 3)
    net = get_peft_model(network, LoraConfig(task_type="SEQ_CLS", target_modules=["wi", "wo"]))
    with pytest.raises(ValueError, match=r"layer 'base_.*experts.expert_\d.w.*target_modules"):
        SequenceClassifier(net, num_data=8).example_axes()


def test_the_trial_leaves_nothing_behind() -> None:
    model = classifier(f"{SHARED_ROWS}, value_proj").train()
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
    assert _axis(texts.flatten(0, 1)[:0]) is None
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
