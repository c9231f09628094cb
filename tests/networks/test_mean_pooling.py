from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
)

from blob_pyro.files import load_posterior, save_posterior
from blob_pyro.files.card import model_card
from blob_pyro.files.config import read_posterior_config
from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.infer import posterior_predictive
from blob_pyro.models import SequenceClassifier
from blob_pyro.networks import (
    MeanPoolingForSequenceClassification,
    load_sequence_classifier,
    pooling_of,
)
from blob_pyro.recipe.network import has_head, lora_config

BERT = BertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    pad_token_id=0,
)
DISTIL = DistilBertConfig(
    vocab_size=40, dim=16, hidden_dim=24, n_layers=1, n_heads=2, pad_token_id=0
)
BATCH = {
    "input_ids": torch.tensor([[2, 5, 6, 7, 3], [2, 9, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}


def sentence_encoder(folder: Path, **pooling: Any) -> str:
    """A folder as sentence-transformers writes it."""
    BertModel(BERT, add_pooling_layer=False).save_pretrained(folder)
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return sentence_encoder(
        tmp_path / "encoder", pooling_mode_cls_token=False, pooling_mode_mean_tokens=True
    )


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "head"),
    ],
)
def test_an_encoder_says_how_it_is_pooled(said: Any, pooling: str, tmp_path: Path) -> None:
    folder = sentence_encoder(tmp_path / "encoder", **said)
    assert pooling_of(load_sequence_classifier(folder, 3)) == pooling
    assert pooling_of(load_sequence_classifier(folder, 3, pooling="mean")) == "mean"
    assert pooling_of(load_sequence_classifier(folder, 3, pooling="head")) == "head"


def test_what_stands_elsewhere_says_nothing_of_an_encoder(tmp_path: Path) -> None:
    folder = sentence_encoder(tmp_path / "encoder", pooling_mode_mean_tokens=False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text('{"pooling_mode": "mean"}')
    modules = Path(folder) / "modules.json"
    modules.write_text(modules.read_text().replace("1_Pooling", "../elsewhere"))
    assert "../elsewhere" in modules.read_text()
    assert pooling_of(load_sequence_classifier(folder, 3)) == "head"


def test_an_encoder_that_says_nothing_has_its_own_head(tmp_path: Path) -> None:
    BertModel(BERT).save_pretrained(tmp_path)
    assert pooling_of(load_sequence_classifier(str(tmp_path), 3)) == "head"
    with pytest.raises(ValueError, match="pooling='cls' is unknown"):
        load_sequence_classifier(str(tmp_path), 3, pooling="cls")  # type: ignore[arg-type]


def test_the_head_reads_the_mean_over_the_real_tokens(folder: str) -> None:
    network = load_sequence_classifier(folder, 3, seed=1).eval()
    states = AutoModel.from_pretrained(folder).eval()(**BATCH).last_hidden_state
    means = torch.stack([states[0].mean(0), states[1, :3].mean(0)])
    torch.testing.assert_close(
        network(**BATCH).logits, torch.nn.functional.linear(means, network.classifier.weight)
    )
    alone = network(BATCH["input_ids"][1:, :3]).logits
    torch.testing.assert_close(network(**BATCH).logits[1:], alone)
    again, other = (load_sequence_classifier(folder, 3, seed=seed) for seed in (1, 2))
    assert torch.equal(network.classifier.weight, again.classifier.weight)
    assert not torch.equal(network.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize("config", [BERT, DISTIL])
def test_it_gets_an_adapter_like_any_other_encoder(config: Any) -> None:
    backbone = BertModel(BERT) if config is BERT else DistilBertModel(DISTIL)
    network = MeanPoolingForSequenceClassification(backbone, 3)
    assert has_head(network)
    targets = None if config is BERT else ("q_lin",)
    peft = get_peft_model(network, lora_config(network, 2, 4, targets))
    trained = {name.split(".")[2] for name, p in peft.named_parameters() if p.requires_grad}
    assert trained == {"mean_pooled", "classifier"}
    assert not any("pooler" in name for name, _ in peft.named_parameters())
    model = SequenceClassifier(peft, 2).train()
    model.gradient_checkpointing_enable()
    model(**BATCH).sum().backward()


@pytest.fixture
def saved(folder: str, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    network = load_sequence_classifier(folder, 3)
    model = SequenceClassifier(get_peft_model(network, lora_config(network, 2, 4, None)), 10)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    guide = LowRankGaussianGuide(model, init_scale=0.16)
    save_posterior(tmp_path / "posterior", model, guide)
    return tmp_path / "posterior", predicted(model, guide)


def predicted(model: Any, guide: Any) -> torch.Tensor:
    return posterior_predictive(model, guide, [BATCH], 0, seed=0, progress=False)["logits"][0]


def test_a_saved_posterior_loads_with_its_pooling(saved: Any, folder: str) -> None:
    posterior, logits = saved
    model, guide = load_posterior(posterior)
    torch.testing.assert_close(predicted(model, guide), logits)
    # Even if the encoder's folder has lost what it said of itself.
    Path(folder, "modules.json").unlink()
    torch.testing.assert_close(predicted(*load_posterior(posterior)), logits)
    with pytest.raises(ValueError, match="was fitted to the base model"):
        load_posterior(posterior, load_sequence_classifier(folder, 3, pooling="head"))


def test_peft_takes_the_adapter_on_the_same_network_and_on_no_other(
    saved: Any, folder: str
) -> None:
    posterior, logits = saved
    base = load_sequence_classifier(folder, 3, pooling="mean")
    net = PeftModel.from_pretrained(base, posterior).eval()
    torch.testing.assert_close(net(**BATCH).logits, logits)
    card = model_card(read_posterior_config(posterior))
    assert 'load_sequence_classifier("encoder", 3, pooling="mean")' in card
    for loader in (AutoModelForSequenceClassification, AutoModel):
        with pytest.raises(ValueError, match=r"No modules were targeted|not found in the base"):
            PeftModel.from_pretrained(loader.from_pretrained(folder), posterior)


def test_an_adapter_made_by_hand_is_saved_under_whole_names_too(
    folder: str, tmp_path: Path
) -> None:
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    net = get_peft_model(load_sequence_classifier(folder, 3), lora)
    model = SequenceClassifier(net, 10)
    save_posterior(tmp_path / "posterior", model, LowRankGaussianGuide(model))
    base = AutoModelForSequenceClassification.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"No modules were targeted|not found in the base"):
        PeftModel.from_pretrained(base, tmp_path / "posterior")


def test_what_transformers_could_not_load_is_not_written(folder: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"network\.mean_pooled"):
        load_sequence_classifier(folder, 3).save_pretrained(tmp_path / "merged")
