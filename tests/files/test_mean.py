from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from blob_pyro import merge_mean
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.models import CausalLM
from tests.models.architectures import base


def test_the_merged_network_predicts_with_the_mean(
    tmp_path: Path, program: Any, predict: Any, inputs: Any, plain_logits: Any
) -> None:
    model, guide = program()
    expected = predict(model, guide, 0)[0]
    far = predict(model, guide, 1)[0]
    tokens = [*model.label_token_ids]
    update, _ = guide.weight_moments(next(iter(guide.sites)))
    before = model.network.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight
    wanted = before + update
    merged = merge_mean(model, guide)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    torch.testing.assert_close(merged.model.layers[0].self_attn.q_proj.weight, wanted)
    torch.testing.assert_close(plain_logits(merged, inputs, tokens), expected, atol=1e-5, rtol=0)
    assert (far - expected).abs().max() > 1e-2
    assert torch.equal(predict(model, guide, 0)[0], expected)
    assert torch.equal(predict(model, guide, 1)[0], far)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(plain_logits(again, inputs, tokens), expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_weight_of_several_layers_is_not_merged() -> None:
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head"])
    net = get_peft_model(base("Gemma2ForCausalLM"), lora)
    model = CausalLM(net, num_data=4)
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    with pytest.raises(ValueError, match=r"the layers \['base_model.*\] share one weight"):
        merge_mean(model, LowRankGaussianGuide(model))
    assert all(torch.equal(before[name], weight) for name, weight in net.named_parameters())


def test_another_adapter_of_the_network_is_not_merged(
    program: Any, predict: Any, inputs: Any, plain_logits: Any
) -> None:
    model, guide = program()
    expected = predict(model, guide, 0)[0]
    model.network.add_adapter("other", model.network.peft_config["default"])
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if ".lora_B.other." in name:
                parameter.fill_(3.0)
    merged = merge_mean(model, guide)
    logits = plain_logits(merged, inputs, [*model.label_token_ids])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
