"""The projections do not care what the base layer is: a made-up 8-bit layer stands for others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pyro import poutine
from torch import nn

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.poutine import flipout


class Int8Linear(nn.Linear):
    """A linear layer that keeps whole numbers and a scale for each output, as 8-bit layers do."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        whole = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.register_buffer("scale", scale)

    def dequantised(self) -> torch.Tensor:
        return self.weight.float() * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.dequantised())


@pytest.fixture
def programs(peft_network: Any) -> Any:
    """Give the same program over quantised layers, and over plain ones of the same values."""
    quantised = peft_network("llama").unload()
    plain = copy.deepcopy(quantised)
    for name, module in [*quantised.named_modules()]:
        if isinstance(module, nn.Linear) and "proj" in name:
            layer = Int8Linear(module)
            quantised.set_submodule(name, layer)
            plain.get_submodule(name).weight.data = layer.dequantised()
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    made = []
    for network in (quantised, plain):
        torch.manual_seed(0)
        net = get_peft_model(network, lora)
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
        model = LabelTokenClassifier(net, [7, 9, 11], num_data=8)
        made.append((model, LowRankGaussianGuide(model, init_scale=0.49)))
    return made


def test_draws_and_gradients_are_those_of_a_plain_base(programs: Any, token_batch: Any) -> None:
    results = []
    for model, guide in programs:
        torch.manual_seed(1)
        with flipout():
            trace = poutine.trace(guide).get_trace()
            logits = poutine.replay(model, trace=trace)(**token_batch())
        (logits.square().sum() + guide.kl()).backward()
        learned = [p for p in (*model.parameters(), *guide.parameters()) if p.requires_grad]
        results.append([logits.detach(), *(p.grad for p in learned)])
    for quantised, plain in zip(*results, strict=True):
        torch.testing.assert_close(quantised, plain, atol=1e-5, rtol=1e-5)


def test_only_the_adapter_learns(programs: Any) -> None:
    (model, _), _ = programs
    layer = next(iter(model.sites.values())).layer
    assert isinstance(layer.base_layer, Int8Linear)
    assert layer.base_layer.weight.dtype == torch.int8
    assert {site.lora_B.dtype for site in model.sites.values()} == {torch.float32}
