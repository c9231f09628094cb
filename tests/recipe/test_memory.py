from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pyro.infer.util import is_validation_enabled
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
from blob_pyro.networks import MINILM, SMOLLM2, load_causal_lm, load_sequence_classifier
from blob_pyro.recipe.memory import estimate_memory
from blob_pyro.recipe.meta import HeldBytes

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
    with HeldBytes() as held:
        first = torch.zeros(1000, device="meta")
        view = first[:10]
        first.add_(1)
        del first
        second = torch.zeros(500, device="meta")
        del view
        third = torch.zeros(500, device="meta")
    assert held.peak == 4 * 1500
    assert held._now == second.nbytes + third.nbytes


@pytest.mark.parametrize(("name", "parameters"), [(MINILM, 22.7e6), (SMOLLM2, 134.5e6)])
def test_a_wheel_has_the_name_that_train_takes(name: str, parameters: float) -> None:
    if find_spec(name.replace("-", "_")) is None:
        pytest.skip(f"{name} is not installed")
    found = estimate_memory(name, batch_size=1, sequence_length=8)
    assert found.base_parameters == pytest.approx(parameters, rel=0.01)


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the model '.*absent.json' cannot be used"):
        estimate_memory(str(tmp_path / "absent.json"))


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


@pytest.mark.parametrize(("quantization", "bits"), [("4bit", 4), ("8bit", 8)])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_quantised_weights_are_those_of_the_package(
    quantization: str, bits: int, kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    sizes = {**SIZES, "hidden_size": 128, "intermediate_size": 256}
    load: Any = load_causal_lm
    config: Any = LlamaConfig(**sizes)
    make: Any = LlamaForCausalLM
    if kind == "bert":
        sizes.pop("num_key_value_heads")
        config, make = BertConfig(**sizes), AutoModelForSequenceClassification.from_config
        load = partial(load_sequence_classifier, num_labels=2)
    make(config).save_pretrained(tmp_path)
    real = load(str(tmp_path), quantization=quantization)
    head = 128 * 2 + 2 if kind == "bert" else 0
    weights = sum(t.nbytes for n, t in real.state_dict().items() if "quant_state" not in n)
    found = estimate_memory(config, dtype=torch.float32, quantization=quantization)
    plain = estimate_memory(config, dtype=torch.float32)
    # Beside the state there are a few frequencies of positions, and places of tokens.
    assert 0 <= found.weights + 4 * head - weights < 2048 + 16 * 512
    assert found.base_parameters == plain.base_parameters
    assert found.trained_parameters == plain.trained_parameters
    stack = 3 * (4 * 128**2 + 2 * 128 * 256 if kind == "bert" else 2.5 * 128**2 + 3 * 128 * 256)
    saved = plain.weights - found.weights
    assert saved == pytest.approx(stack * (4 - bits / 8), rel=0.05)


def test_the_float_weight_of_a_quantised_layer_does_not_stay() -> None:
    sizes = {"batch_size": 4, "sequence_length": 64, "dtype": torch.float32}
    config = LlamaConfig(**{**SIZES, "hidden_size": 256, "num_hidden_layers": 12})
    plain = estimate_memory(config, **sizes)
    quantised = estimate_memory(config, **sizes, quantization="4bit")
    layer = 4 * 256 * 256
    assert plain.activations <= quantised.activations < plain.activations + 2 * layer


def test_processes_divide_the_layers_and_put_three_together() -> None:
    whole, four = estimated(), estimated(num_shards=4)
    assert whole.gathered == 0
    layer = 4 * (2 * 32**2 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32)
    assert four.gathered == 3 * layer
    assert whole.weights - four.weights == 3 * layer * 3 // 4
    for same in ("posterior", "optimizer", "activations", "predicted"):
        assert getattr(four, same) == getattr(whole, same)


def test_draws_that_share_a_pass_take_memory_each() -> None:
    one, ten = (estimated(num_samples=k, sequence_length=64).predicted for k in (1, 10))
    assert 9 < ten / one < 10.5
    assert one < estimated(sequence_length=64).activations
    assert estimated(num_samples=10).prediction > estimated(num_samples=1).prediction


def test_nothing_is_allocated() -> None:
    sizes = {**SIZES, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 2}
    found = estimate_memory(LlamaConfig(**sizes), TARGETS, batch_size=64, sequence_length=4096)
    assert found.total() > 2**35


def test_estimates_at_once_leave_the_checks_of_other_threads_on() -> None:
    seen: set[bool] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(is_validation_enabled())

    with ThreadPoolExecutor(3) as pool:
        watching = pool.submit(watch)
        try:
            found = list(pool.map(lambda _: estimated(), range(4)))
        finally:
            done.set()
        watching.result()
    assert seen == {True}
    assert found == [estimated()] * 4


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
    assert f"{found.prediction / 2**30:.3f}" in result.output
    shards = ["--num-shards", "2", "--quantization", "4bit"]
    result = CliRunner().invoke(app, [*arguments, *shards], env={"COLUMNS": "120"})
    assert "layers put together" in result.output
    wrong = CliRunner().invoke(
        app, ["estimate", "--model", str(path), "--target-modules", "nothing"]
    )
    assert wrong.exit_code == 2
    assert "nothing" in wrong.output
