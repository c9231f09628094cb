"""Posteriors over quantised base models: fitted by name, saved, known again, merged, distilled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, BitsAndBytesConfig

import blob_pyro
from blob_pyro.files import merge_mean
from blob_pyro.files.config import CONFIG_FILE
from blob_pyro.networks import load_causal_lm, load_tokenizer, quantization_of
from blob_pyro.recipe import Posterior
from blob_pyro.testing import ENCODER

TEXTS = ["no toner", "jam in tray", "locked out", "my password"]
LABELS = ["printing", "printing", "login", "login"]
BOTH = pytest.mark.parametrize("quantization", ["4bit", "8bit"])


def fitted(model: Any, quantization: str | None, **settings: Any) -> Posterior:
    if quantization is not None:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    return blob_pyro.fine_tune(
        TEXTS,
        model,
        LABELS,
        quantization=quantization,  # type: ignore[arg-type]
        **{"num_steps": 3, "rank": 2, "progress": False, **settings},
    )


@BOTH
def test_it_loads_by_its_name_and_predicts_the_same(
    quantization: str, base_folder: str, tmp_path: Path
) -> None:
    posterior = fitted(base_folder, quantization)
    before = posterior.predict_proba(TEXTS)
    posterior.save(tmp_path / "posterior")
    loaded = blob_pyro.load(tmp_path / "posterior")
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), before)
    assert quantization_of(loaded.model.network) == quantization_of(posterior.model.network)
    assert "quantised by bitsandbytes" in repr(loaded)
    assert "quantised by bitsandbytes |" in (tmp_path / "posterior" / "README.md").read_text()


def test_only_the_layers_are_quantised(base_folder: str) -> None:
    network = fitted(base_folder, "4bit").model.network.get_base_model()
    whole = [name for name, m in network.named_modules() if type(m) is nn.Linear]
    assert [name for name in whole if "lora_" not in name] == ["lm_head"]
    assert network.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8


@BOTH
def test_an_encoder_keeps_what_is_trained_whole(
    quantization: str, tokenizer: Any, tmp_path: Path
) -> None:
    config = BertConfig(**{**ENCODER, "vocab_size": len(tokenizer), "intermediate_size": 32})
    # Without head and pooling layer, which then start at random.
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    for pooling in ("head", "mean"):
        posterior = fitted(str(tmp_path / "bert"), quantization, pooling=pooling)
        posterior.save(tmp_path / pooling)
        loaded = blob_pyro.load(tmp_path / pooling)
        found = loaded.predict_proba(TEXTS)
        np.testing.assert_array_equal(found, posterior.predict_proba(TEXTS))
        _check_merged(posterior)


@BOTH
def test_the_merged_mean_is_an_ordinary_network_of_the_same_answers(
    quantization: str, base_folder: str, tmp_path: Path
) -> None:
    merged = _check_merged(fitted(base_folder, quantization, learning_rate=0.1))
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(again(ids).logits, merged(ids).logits)


def _check_merged(posterior: Posterior) -> Any:
    merged = merge_mean(posterior.model, posterior.guide).eval()
    assert quantization_of(merged) is None
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    network = posterior.model.network.eval()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad():
        wanted, found = network(input_ids=ids).logits, merged(input_ids=ids).logits
        with network.disable_adapter():
            assert (network(input_ids=ids).logits - wanted).abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    return merged


def test_gpt2_whose_weights_stand_the_other_way_round(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from blob_pyro.testing import GPT2

    network = GPT2LMHeadModel(GPT2Config(**{**GPT2, "vocab_size": len(tokenizer)}))
    network.save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    with pytest.warns(UserWarning, match="fan_in_fan_out"):
        merged = _check_merged(fitted(str(tmp_path / "gpt2"), "8bit", target_modules=["c_attn"]))
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(again(ids).logits, merged(ids).logits)


@BOTH
def test_one_scale_that_differs_is_another_base_model(
    quantization: str, base_folder: str, tmp_path: Path
) -> None:
    fitted(base_folder, quantization).save(tmp_path / "posterior")
    network = load_causal_lm(base_folder, quantization=quantization)
    blob_pyro.load(tmp_path / "posterior", network)
    network = load_causal_lm(base_folder, quantization=quantization)
    weight: Any = network.model.layers[1].mlp.up_proj.weight
    scales = weight.quant_state.state2.absmax if quantization == "4bit" else weight.SCB
    scales[0] *= 1.001
    with pytest.raises(ValueError, match="the weights of this LlamaForCausalLM differ"):
        blob_pyro.load(tmp_path / "posterior", network)


def test_other_precisions_load_with_a_warning(base_folder: str, tmp_path: Path) -> None:
    fitted(base_folder, "4bit").save(tmp_path / "quantised")
    fitted(base_folder, None).save(tmp_path / "plain")
    tokenizer = load_tokenizer(base_folder)
    for folder, there, here in [
        ("quantised", "float32, quantised with .*4bit=True", "float32,"),
        ("quantised", "float32, quantised with .*4bit=True", "float32, quantised with .*8bit=True"),
        ("plain", "float32", "float32, quantised with .*8bit=True"),
    ]:
        chosen = "8bit" if "8bit" in here else None
        network = load_causal_lm(base_folder, quantization=chosen)
        with pytest.warns(UserWarning, match=f"base model in {there}.* this one is in {here}"):
            blob_pyro.load(tmp_path / folder, network, tokenizer)


def test_a_network_that_the_user_loaded(base_folder: str, tmp_path: Path) -> None:
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    from transformers import TorchAoConfig

    network = AutoModelForCausalLM.from_pretrained(
        base_folder, quantization_config=TorchAoConfig(torchao.Int8WeightOnlyConfig())
    )
    posterior = fitted(network, None)
    before = posterior.predict_proba(TEXTS)
    posterior.save(tmp_path / "posterior")
    np.testing.assert_array_equal(
        blob_pyro.load(tmp_path / "posterior").predict_proba(TEXTS), before
    )
    _check_merged(posterior)
    student = posterior.distill(TEXTS, num_steps=2, progress=False)
    assert np.isfinite(student.predict_proba(TEXTS)).all()


def test_a_student_of_a_quantised_teacher(base_folder: str, tmp_path: Path) -> None:
    posterior = fitted(base_folder, "8bit")
    before = posterior.predict_proba(TEXTS)
    student = posterior.distill(TEXTS, num_steps=2, progress=False)
    np.testing.assert_array_equal(posterior.predict_proba(TEXTS), before)
    student.save(tmp_path / "student")
    found = blob_pyro.load(tmp_path / "student").predict_proba(TEXTS)
    np.testing.assert_array_equal(found, student.predict_proba(TEXTS))


def test_files_that_are_quantised_already(base_folder: str, tmp_path: Path) -> None:
    network = fitted(base_folder, "4bit").model.network.unload()
    network.save_pretrained(tmp_path / "base")
    load_tokenizer(base_folder).save_pretrained(tmp_path / "base")
    posterior = fitted(str(tmp_path / "base"), None)
    posterior.save(tmp_path / "posterior")
    found = blob_pyro.load(tmp_path / "posterior").predict_proba(TEXTS)
    np.testing.assert_array_equal(found, posterior.predict_proba(TEXTS))
    with pytest.raises(ValueError, match="quantised already; leave quantization='8bit' out"):
        fitted(str(tmp_path / "base"), "8bit")


def test_a_package_that_is_not_installed(base_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blob_pyro.networks.quantization.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="install it with: pip install bitsandbytes"):
        load_causal_lm(base_folder, quantization="4bit")
    with pytest.raises(ModuleNotFoundError, match="install it with: pip install torchao"):
        load_causal_lm(base_folder, quantization={"quant_method": "torchao"})


@pytest.mark.parametrize("record", [{"quant_method": "gptq", "bits": 4}, {"quant_method": "os"}])
def test_a_record_asks_for_nothing_else(
    record: dict[str, Any], base_folder: str, tmp_path: Path
) -> None:
    fitted(base_folder, None).save(tmp_path / "posterior")
    path = tmp_path / "posterior" / CONFIG_FILE
    content = json.loads(path.read_text())
    content["base_model"]["quantization"] = record
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not loaded by its name here; load the network"):
        blob_pyro.load(tmp_path / "posterior")


def test_gptq_is_refused_before_a_weight_is_read(base_folder: str) -> None:
    path = Path(base_folder, "config.json")
    content = {**json.loads(path.read_text()), "quantization_config": {"quant_method": "gptq"}}
    path.write_text(json.dumps(content))
    Path(base_folder, "model.safetensors").unlink()
    with pytest.raises(ValueError, match="quantised by 'gptq'; what is known here"):
        load_causal_lm(base_folder)


def test_a_head_that_is_quantised_cannot_be_trained(tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

    config = BertConfig(**{**ENCODER, "vocab_size": len(tokenizer), "num_labels": 2})
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    quantised = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["none"])
    network = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, quantization_config=quantised
    )
    with pytest.raises(ValueError, match="classifier is quantised and has to be trained"):
        blob_pyro.fine_tune(TEXTS, network, LABELS, tokenizer=tokenizer, progress=False)


def test_a_loaded_network_is_quantised_or_not(base_folder: str) -> None:
    with pytest.raises(ValueError, match="is for a model that is given by its name"):
        fitted(load_causal_lm(base_folder), "4bit")
