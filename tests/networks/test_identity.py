from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from torch import nn

from blob_pyro.networks import base_identity, identity, load_causal_lm, load_tokenizer
from blob_pyro.networks.identity import files_state, tokenizer_identity
from blob_pyro.testing import tiny_network


class Normalised(nn.Module):
    """A network with numbers that no gradient changes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)


@pytest.mark.parametrize("network", [tiny_network("llama").unload(), Normalised()])
def test_any_changed_number_is_found(network: nn.Module) -> None:
    before = base_identity(network)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        other = copy.deepcopy(network)
        flat = other.state_dict()[name].view(-1)
        place = int(torch.randint(len(flat), (), generator=generator))
        if tensor.is_floating_point():
            flat[place] = torch.nextafter(flat[place], torch.tensor(9.0))
        else:
            flat[place] += 1
        assert base_identity(other)["weights"] != before["weights"], name
        assert base_identity(other)["shapes"] == before["shapes"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_no_part_of_the_base_model(dtype: torch.dtype) -> None:
    net = tiny_network("bert", "SEQ_CLS").to(dtype)
    within = base_identity(net.get_base_model(), ["classifier"])
    assert within["dtype"] == str(dtype).removeprefix("torch.")
    assert base_identity(net.unload(), ["classifier"]) == within


def test_a_configuration_that_changes_answers_is_found() -> None:
    network: Any = tiny_network("llama").unload()
    before = base_identity(network)["config"]
    network.config.use_cache = not network.config.use_cache
    network.config._name_or_path = "elsewhere"
    assert base_identity(network)["config"] == before
    network.config.rope_parameters["rope_theta"] = 7.0
    assert base_identity(network)["config"] != before


def test_files_are_digested_once(
    base_folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    digests = []
    digest = identity._digests
    monkeypatch.setattr(identity, "_digests", lambda frozen: digests.append(1) or digest(frozen))

    def weights() -> str:
        files = files_state(base_folder)
        return str(base_identity(load_causal_lm(base_folder), files=files)["weights"])

    first = weights()
    assert (weights(), len(digests)) == (first, 1)
    assert base_identity(load_causal_lm(base_folder))["weights"] == first
    path = Path(base_folder) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert weights() != first
    # What an interrupted process left in the cache is no digest.
    weights()
    for left in (tmp_path / "cache" / "blob_pyro").iterdir():
        left.write_text("0")
    assert weights() != first


def test_a_cache_that_cannot_be_written_is_done_without(
    base_folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "file"))
    network, files = load_causal_lm(base_folder), files_state(base_folder)
    assert base_identity(network, files=files) == base_identity(network)


def test_a_model_that_is_not_found_has_no_files() -> None:
    assert files_state("./nosuch") is None


def test_a_changed_tokenizer_is_found(base_folder: str) -> None:
    tokenizer = load_tokenizer(base_folder)
    before = tokenizer_identity(tokenizer)
    tokenizer(["the toner"], padding=True, truncation=True, max_length=3)
    assert tokenizer_identity(tokenizer) == before
    path = Path(base_folder) / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["login"], words["phone"] = words["phone"], words["login"]
    path.write_text(json.dumps(content))
    assert tokenizer_identity(load_tokenizer(base_folder)) != before
