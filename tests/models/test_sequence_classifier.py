from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pyro import poutine
from transformers import BigBirdConfig, BigBirdForSequenceClassification

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.models import SequenceClassifier
from blob_pyro.testing import ENCODER
from tests.models.architectures import base

Batch = dict[str, torch.Tensor]
with_head = pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "qwen2"])


def test_token_types_move_with_their_tokens(classifier: Any, padded_batch: Batch) -> None:
    model = classifier("bert", "SEQ_CLS")
    program = poutine.condition(model, LowRankGaussianGuide(model).mean())
    # The second half of the vocabulary is the second sentence.
    types = ((padded_batch["input_ids"] > 30) & (padded_batch["attention_mask"] == 1)).long()
    logits = program(**padded_batch, token_type_ids=types)
    for row, mask in enumerate(padded_batch["attention_mask"] == 1):
        text = {"input_ids": padded_batch["input_ids"][row][mask][None]}
        alone = program(**text, token_type_ids=types[row][mask][None])
        torch.testing.assert_close(alone[0], logits[row], atol=1e-5, rtol=0)
    assert (program(**padded_batch) - logits).abs().max() > 1e-2


@with_head
def test_the_head_is_a_point_estimate(name: str, classifier: Any, token_batch: Any) -> None:
    model = classifier(name, "SEQ_CLS")
    trace = poutine.trace(model).get_trace(**token_batch())
    heads = [site for site in trace.param_nodes if "modules_to_save" in site]
    assert heads
    trace.log_prob_sum().backward()
    parameters = dict(model.network.named_parameters())
    assert all(parameters[site].grad.abs().max() > 0 for site in heads)


@pytest.mark.parametrize("num_labels", [0, 1])
def test_classes_are_at_least_two(num_labels: int, peft_network: Any) -> None:
    net = peft_network("bert", "SEQ_CLS")
    net.config.num_labels = num_labels
    with pytest.raises(ValueError, match=rf"num_labels={num_labels}: .*at least 2; load the netw"):
        SequenceClassifier(net, num_data=8)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "LlamaForTokenClassification"])
def test_a_network_with_logits_for_each_token_is_refused(name: str) -> None:
    net = get_peft_model(base(name), LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(
        ValueError, match=rf"{name} gives logits of the shape \(1, 11, \d+\), where"
    ):
        SequenceClassifier(net, num_data=8)


def test_what_a_checkpoint_needs(classifier: Any) -> None:
    model = classifier("bert", "SEQ_CLS")
    assert model.likelihood_config() == {}
    assert model.num_classes == 3


def test_a_network_that_a_short_text_changes_for_good_is_refused() -> None:
    """BigBird turns to full attention at its first short text, and stays there."""
    sizes = {**ENCODER, "max_position_embeddings": 300, "block_size": 4, "num_random_blocks": 1}
    special = {"sep_token_id": 2, "bos_token_id": 3, "eos_token_id": 4}
    for attention in ("original_full", "block_sparse"):
        config = BigBirdConfig(**sizes, **special, attention_type=attention)
        lora = LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
        net = get_peft_model(BigBirdForSequenceClassification(config), lora)
        refused = pytest.raises(ValueError, match="exchanged layers of its own while")
        with refused if attention == "block_sparse" else nullcontext():
            SequenceClassifier(net, 8)
