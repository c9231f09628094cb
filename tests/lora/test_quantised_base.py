"""Programs over quantised layers against programs over ordinary layers of the same weights."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pyro import poutine
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.lora.quantised import check_quantization, use_dequantised_weights
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.posthoc import laplace
from blob_pyro.poutine import flipout
from blob_pyro.testing import DECODER

# Two blocks of 64 numbers in a row, which a 4-bit layer scales each for itself.
SIZES = {**DECODER, "hidden_size": 128, "intermediate_size": 128, "initializer_range": 0.1}
KINDS = ["made-up", "4bit", "8bit", "torchao"]
Program = tuple[LabelTokenClassifier, LowRankGaussianGuide]


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


def quantization_config(kind: str) -> Any:
    """Give the configuration of a kind, or skip the test where its package is absent."""
    if kind == "torchao":
        torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
        from transformers import TorchAoConfig

        return TorchAoConfig(torchao.Int8WeightOnlyConfig())
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    if kind == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
        )
    return BitsAndBytesConfig(load_in_8bit=True)


def dequantised_weight(kind: str, layer: Any) -> torch.Tensor:
    """Give a layer's weight by what the package that quantised it says."""
    if kind == "torchao":
        return layer.weight.dequantize()
    import bitsandbytes

    if kind == "4bit":
        return bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    scale = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
    return bitsandbytes.functional.int8_vectorwise_dequant(layer.weight.data, scale)


def two_networks(kind: str, folder: Path) -> tuple[Any, Any]:
    """Make a network with quantised layers, and one of the same weights without."""
    torch.manual_seed(3)
    plain = LlamaForCausalLM(LlamaConfig(**SIZES))
    if kind == "made-up":
        quantised = copy.deepcopy(plain)
    else:
        config = quantization_config(kind)
        plain.save_pretrained(folder)
        quantised = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config)
    for name, module in [*plain.named_modules()]:
        if isinstance(module, nn.Linear) and "proj" in name:
            if kind == "made-up":
                quantised.set_submodule(name, Int8Linear(module))
                module.weight.data = quantised.get_submodule(name).dequantised()
            else:
                module.weight.data = dequantised_weight(kind, quantised.get_submodule(name))
    return quantised, plain


@pytest.fixture(params=KINDS)
def programs(request: Any, tmp_path: Path) -> list[Program]:
    """Give the same program over quantised layers, and over plain ones of the same values."""
    made = []
    for network in two_networks(request.param, tmp_path):
        torch.manual_seed(0)
        lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
        net = get_peft_model(network, lora)
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
        model = LabelTokenClassifier(net, [7, 9, 11], num_data=8)
        made.append((model, LowRankGaussianGuide(model, init_scale=0.2)))
    return made


@pytest.mark.parametrize("training", [True, False])
def test_draws_and_gradients_are_those_of_a_plain_base(
    programs: list[Program], token_batch: Any, training: bool
) -> None:
    results = []
    for model, guide in programs:
        model.train(training)
        torch.manual_seed(1)
        with flipout():
            trace = poutine.trace(guide).get_trace()
            logits = poutine.replay(model, trace=trace)(**token_batch())
        (logits.square().sum() + guide.kl()).backward()
        learned = [p for p in (*model.parameters(), *guide.parameters()) if p.requires_grad]
        results.append([logits.detach(), *(p.grad for p in learned)])
    for quantised, plain in zip(*results, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(quantised, plain, atol=2e-5, rtol=2e-4)


def test_predictions_are_those_of_a_plain_base_whatever_stands_beside(
    programs: list[Program], token_batch: Any
) -> None:
    batch = {name: value for name, value in token_batch().items() if name != "labels"}
    found = []
    for model, guide in programs:
        model.eval()
        alone = [
            posterior_predictive(
                model, guide, [{n: v[i : i + 1] for n, v in batch.items()}], 3, seed=5
            )
            for i in range(4)
        ]
        found.append(torch.cat([each["logits"] for each in alone], dim=1))
        found.append(posterior_predictive(model, guide, [batch], 3, seed=5)["logits"])
        found.append(
            posterior_predictive(model, guide, [batch], 3, seed=5, parallel=False)["logits"]
        )
    assert found[0].std(dim=0).min() > 1e-4
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=2e-5, rtol=2e-4)


def test_laplace_is_that_of_a_plain_base(programs: list[Program], token_batch: Any) -> None:
    found = [laplace(model, [token_batch()], progress=False) for model, _ in programs]
    assert found[0].prior_precision == pytest.approx(found[1].prior_precision, rel=1e-3)
    torch.testing.assert_close(found[0].scale(), found[1].scale(), atol=1e-5, rtol=1e-3)


def test_only_the_adapter_learns(programs: list[Program]) -> None:
    (model, _), _ = programs
    layer: Any = next(iter(model.sites.values())).layer
    assert not layer.base_layer.weight.requires_grad
    assert {site.lora_B.dtype for site in model.sites.values()} == {torch.float32}


def test_a_copy_computes_the_same(programs: list[Program], token_batch: Any) -> None:
    (model, guide), _ = programs
    copied, copied_guide = copy.deepcopy((model, guide))
    for kept in (model, copied):
        kept.eval()
    first = posterior_predictive(model, guide, [token_batch()], 2, seed=0)["logits"]
    second = posterior_predictive(copied, copied_guide, [token_batch()], 2, seed=0)["logits"]
    assert torch.equal(first, second)


def test_the_backward_pass_of_8_bits_keeps_no_float_weight(tmp_path: Path) -> None:
    quantised, _ = two_networks("8bit", tmp_path)
    use_dequantised_weights(quantised)
    layer = quantised.model.layers[0].mlp.up_proj
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(3, 128, requires_grad=True))
    assert {tensor.dtype for tensor in kept if tensor.dim() == 2} == {torch.int8}


def test_a_layer_does_not_change_its_weights_when_it_is_evaluated(tmp_path: Path) -> None:
    """A CPU that multiplies in bfloat16 makes bitsandbytes pack 4-bit weights anew."""
    quantised, plain = two_networks("4bit", tmp_path)
    layers = [m for m in quantised.modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True
    use_dequantised_weights(quantised)
    before = layers[0].weight.data.clone()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(quantised(ids).logits, plain(ids).logits)
    assert torch.equal(layers[0].weight.data, before)


@pytest.mark.parametrize("method", ["gptq", "awq", "hqq", "evil"])
def test_another_quantisation_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=rf"quantised by '{method}'; .* load the original"):
        check_quantization(SimpleNamespace(quantization_config={"quant_method": method}))


def test_layers_that_round_their_inputs_are_refused() -> None:
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    network = nn.Sequential(nn.Linear(8, 8))
    torchao.quantize_(network, torchao.Int8DynamicActivationInt8WeightConfig())
    with pytest.raises(ValueError, match=r"layer '0' has a .* rounds the layer's inputs too"):
        use_dequantised_weights(network)


def test_weights_that_are_rounded_at_each_pass_are_refused() -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    network = nn.Sequential(bnb.nn.Linear8bitLt(8, 8, has_fp16_weights=True))
    with pytest.raises(ValueError, match="llm_int8_has_fp16_weight=False"):
        use_dequantised_weights(network)
