from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLMHeadModel,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from blob_pyro.models import LabelTokenClassifier, OptionLikelihood, SequenceClassifier
from blob_pyro.networks import is_encoder, load_sequence_classifier, load_tokenizer, pooling_of
from blob_pyro.recipe import Recipe, fine_tune, load, run_recipe
from blob_pyro.recipe.network import (
    answering,
    has_head,
    load_network,
    lora_config,
    make_likelihood,
)
from blob_pyro.tasks import TASKS, TEXT_TASKS, helpdesk

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "pad_token_id": 1,
}
DISTIL = DistilBertConfig(
    vocab_size=40, dim=16, hidden_dim=24, n_layers=1, n_heads=2, pad_token_id=1
)


@pytest.mark.parametrize(
    ("network", "encoder"),
    [
        (lambda: BertForMaskedLM(BertConfig(**SIZES)), True),
        (lambda: BertForSequenceClassification(BertConfig(**SIZES)), True),
        (lambda: BertLMHeadModel(BertConfig(**SIZES, is_decoder=True)), False),
        (lambda: DistilBertForSequenceClassification(DISTIL).distilbert, True),
        (lambda: LlamaForCausalLM(LlamaConfig(**SIZES)), False),
        (lambda: LlamaForSequenceClassification(LlamaConfig(**SIZES)), True),
    ],
)
def test_what_was_saved_says_how_it_classifies(network: Any, encoder: bool, tmp_path: Path) -> None:
    network().save_pretrained(tmp_path)
    assert is_encoder(str(tmp_path)) == encoder


def test_a_new_head_follows_the_seed_and_leaves_the_random_state(tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path)
    state = torch.get_rng_state()
    first, again, other = (
        load_sequence_classifier(str(tmp_path), 3, seed=seed).classifier.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_tasks_network_has_a_class_for_each_label(tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path)
    network = load_network(str(tmp_path), helpdesk(), torch.bfloat16)
    assert has_head(network)
    assert network.config.num_labels == 10
    assert next(network.parameters()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="boolq has questions with options, which need a causal"):
        load_network(str(tmp_path), TASKS["boolq"])


def test_the_adapter_fits_the_architecture_and_the_head_is_trained_whole() -> None:
    sizes = {**SIZES, "pooler_hidden_size": 16}
    net = DebertaV2ForSequenceClassification(DebertaV2Config(**sizes))
    peft = get_peft_model(net, lora_config(net, 2, 4, None))
    trained = {name.split(".")[2] for name, p in peft.named_parameters() if p.requires_grad}
    assert trained == {"deberta", "pooler", "classifier"}
    adapted = {name for name, _ in peft.named_modules() if name.endswith("lora_A")}
    assert {name.split(".")[-2] for name in adapted} == {"query_proj", "value_proj"}
    llama = LlamaForCausalLM(LlamaConfig(**SIZES))
    config = lora_config(llama, 2, 4, None)
    assert (config.task_type, config.modules_to_save) == ("CAUSAL_LM", None)
    get_peft_model(llama, config)
    assert config.target_modules == {"q_proj", "v_proj"}


def test_the_last_layers_alone_can_be_latent() -> None:
    sizes = {**SIZES, "num_hidden_layers": 3}
    for network in (
        LlamaForCausalLM(LlamaConfig(**sizes)),
        DebertaV2ForSequenceClassification(DebertaV2Config(**sizes, pooler_hidden_size=16)),
    ):
        with pytest.raises(ValueError, match="latent_layers='last:4', but the network has 3 layer"):
            lora_config(network, 2, 4, None, latent_layers="last:4")
        config = lora_config(network, 2, 4, None, latent_layers="last:2")
        names = [name for name, _ in get_peft_model(network, config).named_modules()]
        layers = {name.split(".layer")[1][:3].strip("s.") for name in names if "lora_A" in name}
        assert layers == {"1", "2"}


def test_parts_that_the_weights_lack_are_trained_whole_too(tmp_path: Path) -> None:
    """Weights pre-trained by filling gaps have no pooler."""
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path)
    network = load_sequence_classifier(str(tmp_path), 3)
    assert network.new_modules == ["bert.pooler.dense", "classifier"]
    config = lora_config(network, 2, 4, None)
    assert config.modules_to_save == ["bert.pooler.dense"]
    peft = get_peft_model(network, config)
    trained = [name for name, p in peft.named_parameters() if p.requires_grad]
    assert any("pooler.dense.modules_to_save" in name for name in trained)
    assert any("classifier.modules_to_save" in name for name in trained)


def test_an_architecture_that_peft_does_not_know_needs_layers_by_name() -> None:
    net = DistilBertForSequenceClassification(DISTIL)
    with pytest.raises(
        ValueError, match=r"architecture 'distilbert'; .*--set target_modules.*'q_lin', 'v_lin'"
    ):
        lora_config(net, 2, 4, None)
    peft = get_peft_model(net, lora_config(net, 2, 4, ("q_lin", "v_lin")))
    trained = {name.split(".")[2] for name, p in peft.named_parameters() if p.requires_grad}
    assert trained == {"distilbert", "pre_classifier", "classifier"}


def causal(tokenizer: Any) -> Any:
    net = LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": len(tokenizer)}))
    return get_peft_model(net, lora_config(net, 2, 4, None))


@pytest.mark.parametrize(
    ("task", "scoring", "kind", "answers"),
    [
        (TASKS["openbookqa"], "options", OptionLikelihood, None),
        (TASKS["openbookqa"], "letters", LabelTokenClassifier, "A B C D"),
        (TASKS["boolq"], "letters", LabelTokenClassifier, "false true"),
        (TEXT_TASKS["glue_rte"], "options", LabelTokenClassifier, "yes no"),
        (TEXT_TASKS["glue_rte"], "letters", LabelTokenClassifier, "A B"),
    ],
)
def test_a_task_and_a_way_of_answering_have_one_model(
    task: Any, scoring: Any, kind: type, answers: str | None, tokenizer: Any
) -> None:
    model = make_likelihood(causal(tokenizer), tokenizer, task, scoring, 5, 0.2)
    assert type(model) is kind
    if isinstance(model, LabelTokenClassifier):
        assert tokenizer.decode(list(model.label_token_ids)) == answers


def test_a_head_needs_no_words(tokenizer: Any) -> None:
    net = BertForSequenceClassification(BertConfig(**SIZES))
    net = get_peft_model(net, lora_config(net, 2, 4, None))
    model = make_likelihood(net, tokenizer, helpdesk(), "head", 5, 0.2)
    assert isinstance(model, SequenceClassifier)
    with answering(model, helpdesk(), tokenizer):
        assert model.num_classes == 2


@pytest.mark.parametrize("scoring", ["options", "letters"])
def test_another_tasks_questions_are_offered_with_their_own_answers(
    scoring: Any, tokenizer: Any
) -> None:
    model = make_likelihood(causal(tokenizer), tokenizer, TASKS["openbookqa"], scoring, 5, 0.2)
    for name, number in (("ai2_arc_easy", 5), ("boolq", 2), ("openbookqa", 4)):
        with answering(model, TASKS[name], tokenizer):
            assert model.num_classes == number
            if isinstance(model, LabelTokenClassifier):
                decoded = tokenizer.decode(list(model.label_token_ids))
                assert decoded == " ".join(TASKS[name].answers)
        assert model.num_classes == 4


def test_questions_of_another_task_leave_the_answers_of_the_own(
    base_folder: str, tmp_path: Path
) -> None:
    rows: dict[str, list[Any]] = {
        "id": ["a", "b"],
        "prompt": ["Answer:", "the printing problem Answer:"],
        "lettered": ["Answer:", "the printing problem Answer:"],
        "options": [["no", "yes"]] * 2,
        "label": [0, 1],
    }
    data = Dataset.from_dict(rows)
    own, other = (
        replace(TASKS[name], splits={"train": data, "test": data})
        for name in ("boolq", "openbookqa")
    )
    run: Any = {"num_samples": 2, "progress": False}
    fitted = fine_tune(own, base_folder, scoring="letters", num_steps=1, progress=False)
    expected = fitted.evaluate(data, **run).logits
    for _ in range(2):
        assert fitted.evaluate(other, **run).logits.shape == (2, 2, 4)
        assert np.array_equal(fitted.evaluate(data, **run).logits, expected)
        fitted.save(tmp_path / "posterior")
        fitted = load(tmp_path / "posterior")


def test_a_pooling_that_the_network_has_not_is_refused(tmp_path: Path, base_folder: str) -> None:
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path)
    network = load_network(str(tmp_path), helpdesk(), pooling="mean")
    assert pooling_of(network) == "mean"
    with pytest.raises(ValueError, match=r"pooling='mean': .* is a causal LM, which has no head"):
        load_network(base_folder, helpdesk(), pooling="mean")
    task = helpdesk()
    with pytest.raises(ValueError, match="pooling='head', but the network is a MeanPoolingFor"):
        run_recipe(
            Recipe(pooling="head"), network, load_tokenizer(base_folder), task, task.splits["train"]
        )
