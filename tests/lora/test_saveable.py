"""What is trained is saved, or refused before it is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from blob_pyro import export_draws, load_posterior, save_posterior
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import LabelTokenClassifier, SequenceClassifier

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
BATCH = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 10]])}
TOKENS = [7, 9, 11]


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES, num_labels=3))


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def model_of(net: PeftModel) -> Any:
    if net.peft_config["default"].task_type == "SEQ_CLS":
        return SequenceClassifier(net, 7)
    return LabelTokenClassifier(net, TOKENS, 7)


HEAD = {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"]}
CAUSAL = {"task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj", "v_proj"]}
ADAPTERS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "head": (bert, HEAD),
    "norms": (llama, {**CAUSAL, "modules_to_save": ["norm", "input_layernorm"]}),
    "orthogonal start": (llama, {**CAUSAL, "init_lora_weights": "orthogonal"}),
    "rank pattern": (llama, {**CAUSAL, "rank_pattern": {"layers.0.*q_proj": 4}}),
    "rslora": (llama, {**CAUSAL, "use_rslora": True, "lora_alpha": 5}),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_all_that_is_trained_comes_back(name: str, tmp_path: Path) -> None:
    base, options = ADAPTERS[name]
    model = model_of(get_peft_model(base(), LoraConfig(**options))).eval()
    guide = LowRankGaussianGuide(model, init_scale=0.1)
    with torch.no_grad():
        for parameter in (*guide.parameters(), *model.parameters()):
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    before = posterior_predictive(model, guide, [BATCH], 3, seed=0, progress=False)["logits"]
    mean = posterior_predictive(model, guide, [BATCH], 0, progress=False)["logits"][0]
    save_posterior(tmp_path / "p", model, guide)
    again = load_posterior(tmp_path / "p", base())
    after = posterior_predictive(*again, [BATCH], 3, seed=0, progress=False)["logits"]
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)

    def of_peft(folder: Path) -> torch.Tensor:
        logits = PeftModel.from_pretrained(base(), str(folder)).eval()(**BATCH).logits.detach()
        return logits if base is bert else logits[:, -1, TOKENS]

    torch.testing.assert_close(of_peft(tmp_path / "p"), mean, atol=1e-6, rtol=1e-6)
    folders = export_draws(tmp_path / "draws", model, guide, num_samples=3, seed=0)
    for folder, logits in zip(folders, before, strict=True):
        torch.testing.assert_close(of_peft(folder), logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"trainable_token_indices": [5, 8]},
    ],
)
def test_what_changes_the_base_weights_is_refused(options: dict[str, Any]) -> None:
    for base, config in ((llama, CAUSAL), (bert, HEAD)):
        net = get_peft_model(base(), LoraConfig(**config, **options))
        with pytest.raises(
            ValueError, match=f"LoraConfig.{next(iter(options))}=.* changes the base"
        ):
            model_of(net)


def unfrozen(net: Any) -> None:
    net.get_base_model().model.norm.weight.requires_grad_(True)


def scaled(net: Any) -> None:
    net.get_base_model().model.layers[0].self_attn.q_proj.set_scale("default", 2.0)


def two_active(net: Any) -> None:
    net.add_adapter("second", copy.deepcopy(net.peft_config["default"]))
    net.base_model.set_adapter(["default", "second"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unfrozen, "1 parameters are trained that a saved adapter does not hold.*norm.weight"),
        (scaled, "scales its update by 8, but its configuration says 4"),
        (two_active, r"the adapters \['second'\] are active too, .* the posterior of 'default'"),
    ],
)
def test_what_would_be_lost_is_refused(
    change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    net = get_peft_model(llama(), LoraConfig(**CAUSAL))
    change(net)
    with pytest.raises(ValueError, match=message):
        model_of(net)
    # Afterwards too, when it is saved.
    model = model_of(get_peft_model(llama(), LoraConfig(**CAUSAL)))
    guide = LowRankGaussianGuide(model)
    change(model.network)
    with pytest.raises(ValueError, match=message):
        save_posterior(tmp_path / "p", model, guide)
    assert not (tmp_path / "p").exists()
