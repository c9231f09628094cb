from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro import poutine

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.models import LabelTokenClassifier

Batch = dict[str, torch.Tensor]
TOKENS = [9, 30, 7]
causal = pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])


@causal
def test_the_vocabulary_is_computed_for_one_position(
    name: str, classifier: Any, padded_batch: Batch
) -> None:
    model, shapes = classifier(name), []
    head = model.network.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
    model(**padded_batch)
    assert shapes == [(4, 1, 16)]


@causal
def test_positions_may_be_given(name: str, classifier: Any, padded_batch: Batch) -> None:
    model = classifier(name)
    draw = LowRankGaussianGuide(model).mean()
    program = poutine.condition(model, draw)
    positions = (padded_batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    expected = program(**padded_batch)
    torch.testing.assert_close(program(**padded_batch, position_ids=positions), expected)
    apart = 3 * positions
    assert (program(**padded_batch, position_ids=apart) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([7], r"label_token_ids=\[7\] must be at least two different tokens.*first tokens differ"),
        ([], r"label_token_ids=\[\] must be at least two different tokens"),
        ([7, 9, 7], r"label_token_ids=\[7, 9, 7\] must be at least two different tokens"),
        ([7, 60], r"label_token_ids=\[7, 60\] leave the vocabulary of 60 tokens; use this net"),
        ([-1, 7], r"label_token_ids=\[-1, 7\] leave the vocabulary of 60 tokens"),
    ],
)
def test_impossible_label_tokens(tokens: list[int], message: str, peft_network: Any) -> None:
    net = peft_network("llama")
    parameters = list(net.state_dict())
    with pytest.raises(ValueError, match=message):
        LabelTokenClassifier(net, tokens, num_data=8)
    assert list(net.state_dict()) == parameters


def test_a_network_without_a_language_head_is_refused(peft_network: Any) -> None:
    net = peft_network("bert", "SEQ_CLS")
    parameters = list(net.state_dict())
    with pytest.raises(
        ValueError, match=r"BertForSequenceClassification has no argument logits_to"
    ):
        LabelTokenClassifier(net, TOKENS, num_data=8)
    assert list(net.state_dict()) == parameters


def test_what_a_checkpoint_needs(peft_network: Any) -> None:
    model = LabelTokenClassifier(peft_network("llama"), TOKENS, num_data=8)
    assert model.likelihood_config() == {"label_token_ids": TOKENS}
    assert model.num_classes == 3


def test_classes_that_an_example_does_not_offer_are_impossible(
    peft_network: Any, token_batch: Any
) -> None:
    model = LabelTokenClassifier(peft_network("llama").eval(), TOKENS, num_data=8)
    program = poutine.condition(model, LowRankGaussianGuide(model).mean())
    batch = {**token_batch(4), "labels": torch.tensor([1, 2, 0, 1])}
    offered = torch.tensor([2, 3, 3, 2])
    logits, free = program(**batch, num_options=offered), program(**batch)
    assert torch.isneginf(logits).nonzero().tolist() == [[0, 2], [3, 2]]
    kept = torch.isfinite(logits)
    assert torch.equal(logits[kept], free[kept])
    with pytest.raises(ValueError, match=r"labels\[0\] = 1 but the model has 1 classes"):
        program(**batch, num_options=offered - 1)
    with pytest.raises(ValueError, match=r"has 4 options but .* 3 label tokens; set model.label_t"):
        program(**batch, num_options=offered + 1)
