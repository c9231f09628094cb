from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from blob_pyro.lora import bayesianize
from blob_pyro.networks import MeanPoolingForSequenceClassification, pooled_features
from blob_pyro.recipe.network import lora_config
from blob_pyro.testing import DECODER, ENCODER, GPT2, tiny_batch

BATCH = tiny_batch()
INPUTS = {name: BATCH[name] for name in ("input_ids", "attention_mask")}
LENGTHS = INPUTS["attention_mask"].sum(1)
LAST = (torch.arange(4), LENGTHS - 1)


def turned(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same texts, padded on the left."""
    rows = [
        torch.roll(torch.stack([*inputs.values()], 1)[i], int(6 - n), -1)
        for i, n in enumerate(LENGTHS)
    ]
    ids, mask = torch.stack(rows, 1)
    return {"input_ids": ids, "attention_mask": mask}


def by_hand(network: Any) -> torch.Tensor:
    """What Transformers computes up to the head, with the code of each architecture's own."""
    match network:
        case BertForSequenceClassification():
            return network.bert(**INPUTS).pooler_output
        case DistilBertForSequenceClassification():
            first = network.distilbert(**INPUTS).last_hidden_state[:, 0]
            return network.pre_classifier(first).relu()
        case RobertaForSequenceClassification():
            first = network.roberta(**INPUTS).last_hidden_state[:, 0]
            return network.classifier.dense(first).tanh()
        case MeanPoolingForSequenceClassification():
            states = network.mean_pooled(**INPUTS).last_hidden_state
            return torch.stack([row[:n].mean(0) for row, n in zip(states, LENGTHS, strict=True)])
        case LlamaForSequenceClassification() | LlamaForCausalLM():
            return network.model(**INPUTS).last_hidden_state[LAST]
        case _:
            return network.transformer(**INPUTS).last_hidden_state[LAST]


NETWORKS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**ENCODER)),
    "minilm": lambda: MeanPoolingForSequenceClassification(BertModel(BertConfig(**ENCODER)), 3),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=60,
            dim=16,
            hidden_dim=24,
            n_layers=1,
            n_heads=2,
            pad_token_id=1,
            num_labels=3,
        )
    ),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**ENCODER)),
    "llama with a head": lambda: LlamaForSequenceClassification(LlamaConfig(**DECODER)),
    "gpt2 with a head": lambda: GPT2ForSequenceClassification(GPT2Config(**GPT2)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**DECODER)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_what_transformers_computes(name: str) -> None:
    torch.manual_seed(0)
    network: Any = NETWORKS[name]()
    assert network.training
    found = pooled_features(network, BATCH)
    assert network.training
    assert not found.requires_grad
    wanted = by_hand(network.eval())
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(pooled_features(network, turned(INPUTS)), wanted)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_adapter_moves_features_and_leaves_those_of_the_base_model(name: str) -> None:
    torch.manual_seed(0)
    network: Any = NETWORKS[name]().eval()
    # As many ranks as classes: the head is not taken for another layer of that size.
    config = lora_config(network, 3, 6, ("q_lin",) if name == "distilbert" else None)
    config.fan_in_fan_out = name.startswith("gpt2")
    wanted = by_hand(network)
    net = get_peft_model(network, config).eval()
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.3)
    adapted = by_hand(net.get_base_model())
    bayesianize(net)
    assert not torch.allclose(adapted, wanted)
    torch.testing.assert_close(pooled_features(net, BATCH), adapted)
    torch.testing.assert_close(pooled_features(net, BATCH, base=True), wanted)


def test_a_head_that_reads_the_last_column_gets_padding_on_the_left() -> None:
    config = XLNetConfig(vocab_size=60, d_model=16, n_layer=1, n_head=2, d_inner=24, num_labels=3)
    network = XLNetForSequenceClassification(config)
    padded = pooled_features(network, INPUTS, padding_side="left")
    for row, length in enumerate(LENGTHS):
        alone = {"input_ids": INPUTS["input_ids"][row : row + 1, :length]}
        torch.testing.assert_close(padded[row : row + 1], pooled_features(network, alone))
