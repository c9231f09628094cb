from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
)
from typer.testing import CliRunner

from blob_pyro.cli import app
from blob_pyro.recipe.memory import _HeldBytes, estimate_memory

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TARGETS = ["q_proj", "v_proj"]


def estimated(**options: Any) -> Any:
    return estimate_memory(LlamaConfig(**SIZES), TARGETS, **{"dtype": torch.float32, **options})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_are_counted_as_the_real_ones(dtype: torch.dtype) -> None:
    found = estimated(dtype=dtype, rank=4)
    real = LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype)
    assert found.base_parameters == sum(p.numel() for p in real.parameters())
    weights = sum(p.nbytes for p in real.parameters())
    # Beside the parameters there are a few frequencies of positions.
    assert weights <= found.weights < weights + 1024
    # A layer: M and G for q and v, and their lora_B.
    trained = 3 * (2 * 2 * 4 * 32 + 4 * 32 + 4 * 16)
    assert found.trained_parameters == trained
    assert found.optimizer == 2 * 4 * trained
    assert found.posterior == 4 * (trained + 3 * 2 * 4 * 32)


def test_activations_grow_as_they_must() -> None:
    found, twice = estimated(sequence_length=64), estimated(sequence_length=128)
    # Fused attention: linear in the tokens, but for the gradients.
    assert 1.9 < twice.activations / found.activations < 2.01
    batch = estimated(sequence_length=64, batch_size=8)
    assert 1.9 < batch.activations / found.activations < 2.01
    assert found.checkpointed < 0.8 * found.activations
    assert found.total() - found.total(checkpointing=True) == found.activations - found.checkpointed


def test_held_bytes_follow_storages_not_tensors() -> None:
    with _HeldBytes() as held:
        first = torch.zeros(1000, device="meta")
        view = first[:10]
        first.add_(1)
        del first
        second = torch.zeros(500, device="meta")
        del view
        third = torch.zeros(500, device="meta")
    assert held.peak == 4 * 1500
    assert held._now == second.nbytes + third.nbytes


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_another_architecture(tmp_path: Path) -> None:
    config = GPT2Config(
        vocab_size=100, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    config.save_pretrained(tmp_path)
    for where in (config, str(tmp_path), str(tmp_path / "config.json")):
        found = estimate_memory(where, ["c_attn"], rank=2)
        assert found.trained_parameters == 2 * (2 * 2 * 32 + 2 * 96)


@pytest.mark.parametrize(
    ("config", "layers", "whole"),
    [
        (BertConfig, ["query", "value"], None),
        (RobertaConfig, ["query", "value"], None),
        (DebertaV2Config, ["query_proj", "value_proj"], ["pooler"]),
    ],
)
def test_an_encoder_has_a_head_and_pefts_layers(
    config: Any, layers: list[str], whole: list[str] | None
) -> None:
    sizes = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
    encoder = config(**sizes, num_labels=5)
    found = estimate_memory(encoder, rank=4, dtype=torch.float32)
    lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=layers, modules_to_save=whole)
    real = get_peft_model(AutoModelForSequenceClassification.from_config(encoder), lora)
    frozen = [p.numel() for p in real.parameters() if not p.requires_grad]
    trained = [p.numel() for p in real.parameters() if p.requires_grad]
    assert found.base_parameters == sum(frozen)
    # Beside a mean, each weight of lora_A has a scale: three layers, two adapters of 4 x 32.
    assert found.trained_parameters == sum(trained) + 3 * 2 * 4 * 32
    longer = estimate_memory(encoder, rank=4, dtype=torch.float32, sequence_length=400)
    assert longer.activations > found.activations > found.checkpointed


def test_nothing_is_allocated() -> None:
    sizes = {**SIZES, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 2}
    found = estimate_memory(LlamaConfig(**sizes), TARGETS, batch_size=64, sequence_length=4096)
    assert found.total() > 2**35


def test_the_command_prints_both_tables(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama", **SIZES}))
    arguments = [
        "estimate",
        "--model",
        str(path),
        "--rank",
        "4",
        "--target-modules",
        "q_proj, v_proj",
    ]
    result = CliRunner().invoke(app, [*arguments, "--dtype", "float32"], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    found = estimated(rank=4)
    assert f"{found.trained_parameters:,}" in result.output
    assert f"{found.total(checkpointing=True) / 2**30:.3f}" in result.output
    wrong = CliRunner().invoke(
        app, ["estimate", "--model", str(path), "--target-modules", "nothing"]
    )
    assert wrong.exit_code == 2
    assert "nothing" in wrong.output
