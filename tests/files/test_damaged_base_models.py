"""Base models and tokenizers damaged in many ways: refused by name, or just as before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import DatasetDict
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from blob_pyro.guides import LowRankGaussianGuide
from blob_pyro.models import LabelTokenClassifier
from blob_pyro.networks import (
    is_encoder,
    load_causal_lm,
    load_sequence_classifier,
    load_tokenizer,
)
from blob_pyro.recipe import Posterior, load
from blob_pyro.tasks import TextClassificationTask
from blob_pyro.testing import tiny_base_folder, tiny_tokenizer
from tests.files.damage import Damage, content, entry, fifo, gone, tensors

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIG, WEIGHTS, WORDS, WORDS_CONFIG = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
TEXTS = ["the toner is out", "my phone is mute"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> tuple[Path, Path, Path, Any]:
    """A base folder, a copy of it, a posterior on it, and what that predicts."""
    above = tmp_path_factory.mktemp("above")
    words = tiny_tokenizer([*TEXTS, "a b"])
    torch.manual_seed(0)
    name = tiny_base_folder(above / "base", words)
    shutil.copytree(above / "base", above / "copy")
    network = load_causal_lm(name)
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    net = get_peft_model(network, lora)
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if "lora_B" in key:
                parameter.normal_()
    tokenizer = load_tokenizer(name)
    model = LabelTokenClassifier(net, tokenizer.convert_tokens_to_ids(["a", "b"]), 8).eval()
    guide = LowRankGaussianGuide(model, init_scale=0.2)
    task = TextClassificationTask("t", DatasetDict(), ("a", "b"), "{text}")
    posterior = Posterior(model, guide, tokenizer, task)
    posterior.save(above / "p")
    return above / "base", above / "copy", above / "p", posterior.predict_proba(TEXTS)


@pytest.fixture
def base(whole: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The base folder, as it was."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    folder, copy, _, _ = whole
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    return Path(folder)


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


NORM, HEAD = "model.norm.weight", "lm_head.weight"
ALL = (CONFIG, WEIGHTS, WORDS, WORDS_CONFIG)
DAMAGES: dict[str, Damage] = {
    **{f"{file} cut": content(file, lambda old: old[:-9]) for file in ALL},
    **{f"{file} half": content(file, lambda old: old[: len(old) // 2]) for file in ALL},
    **{f"{file} empty": content(file, lambda _: b"") for file in ALL},
    **{f"{file} of zeros": content(file, lambda old: bytes(len(old))) for file in ALL},
    **{f"{file} is a list": content(file, lambda _: b"[]") for file in ALL},
    **{f"{file} is an object": content(file, lambda _: b"{}") for file in ALL},
    **{f"{file} is null": content(file, lambda _: b"null") for file in ALL},
    **{f"{file} is deep": content(file, lambda _: b"[" * 100_000) for file in ALL},
    **{f"{file} is a FIFO": fifo(file) for file in ALL},
    **{f"{file} gone": gone(file) for file in ALL},
    "weights as a pickle": as_pickle,
    "a huge header": content(WEIGHTS, lambda old: b"\xff" * 8 + old[8:]),
    "one number": tensors(
        WEIGHTS, lambda c: {**c, NORM: c[NORM].index_fill(0, torch.tensor(3), 1.001)}
    ),
    "a number that is none": tensors(
        WEIGHTS, lambda c: {**c, NORM: c[NORM].index_fill(0, torch.tensor(3), float("nan"))}
    ),
    "whole numbers": tensors(WEIGHTS, lambda c: {**c, NORM: c[NORM].long()}),
    "half precision": tensors(WEIGHTS, lambda c: {k: t.half() for k, t in c.items()}),
    "a tensor less": tensors(WEIGHTS, lambda c: {k: t for k, t in c.items() if k != NORM}),
    "no head": tensors(WEIGHTS, lambda c: {k: t for k, t in c.items() if k != HEAD}),
    "a tensor more": tensors(WEIGHTS, lambda c: {**c, "x": torch.zeros(1)}),
    "other names": tensors(WEIGHTS, lambda c: {f"x.{k}": t for k, t in c.items()}),
    "no tensors": tensors(WEIGHTS, lambda _: {"x": torch.zeros(1)}),
    "another shape": tensors(WEIGHTS, lambda c: {**c, NORM: c[NORM][:-1]}),
    "two shapes": tensors(WEIGHTS, lambda c: {**c, NORM: c[NORM][None]}),
    **{
        f"{key} is {value!r:.20}": entry(CONFIG, key, to=value)
        for key, values in {
            "model_type": ("evil", 3, None, "bert", "mistral"),
            "architectures": (None, [], "x", ["BertModel"], [3]),
            "hidden_size": (0, -1, 10**9, "16", None, 8),
            "num_hidden_layers": (0, 1, 3, 10**9, "2", -1),
            "num_attention_heads": (0, 3, 1, 10**9),
            "num_key_value_heads": (0, 2, None),
            "head_dim": (None, 4, 10**9),
            "vocab_size": (1, 10**9, "x"),
            "hidden_act": ("evil", None, "relu"),
            "rms_norm_eps": ("x", 1.0, float("nan"), None),
            "rope_parameters": ({}, None, {"rope_type": "evil"}, {"rope_theta": 2.0}),
            "max_position_embeddings": (0, "x", 10**12),
            "num_labels": (10**9, -1, "x"),
            "id2label": ({}, [], {"x": "y"}),
            "tie_word_embeddings": (True,),
            "attention_bias": (True, "x"),
            "pad_token_id": (10**9, "x", -7),
            "dtype": ("float8", 3, "bfloat16"),
            "quantization_config": ({}, {"quant_method": "evil"}, 3),
            "auto_map": ({"AutoConfig": "evil.Evil"}, 3),
            "text_config": ({}, 3),
        }.items()
        for value in values
    },
    **{
        f"tokenizer {'.'.join(map(str, path))} is {value!r:.20}": entry(WORDS, *path, to=value)
        for path, value in [
            (("model",), None),
            (("model", "type"), "evil"),
            (("model", "vocab"), {}),
            (("model", "vocab"), [1]),
            (("model", "vocab", "toner"), 3),
            (("model", "vocab", "toner"), -1),
            (("model", "vocab", "toner"), 10**6),
            (("model", "vocab", "more"), 40),
            (("model", "unk_token"), "none"),
            (("pre_tokenizer",), None),
            (("pre_tokenizer",), {"type": "evil"}),
            (("pre_tokenizer",), {"type": "Split", "pattern": {"Regex": "("}}),
            (("normalizer",), {"type": "Lowercase"}),
            (("post_processor",), {"type": "evil"}),
            (("added_tokens",), []),
            (("added_tokens",), 3),
            (("added_tokens", 0, "content"), "toner"),
            (("truncation",), {"max_length": 1}),
            (("version",), "9.9"),
        ]
    },
    **{
        f"tokenizer_config {key} is {value!r:.20}": entry(WORDS_CONFIG, key, to=value)
        for key, value in [
            ("tokenizer_class", "EvilTokenizer"),
            ("tokenizer_class", 3),
            ("tokenizer_class", "BertTokenizer"),
            ("pad_token", 3),
            ("pad_token", "toner"),
            ("unk_token", None),
            ("eos_token", {"a": 1}),
            ("model_max_length", 1),
            ("model_max_length", "x"),
            ("padding_side", "up"),
            ("added_tokens_decoder", 3),
            ("added_tokens_decoder", {"40": {"content": "toner"}}),
        ]
    },
}


def test_there_are_many_damages() -> None:
    assert len(DAMAGES) >= 40


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call gives, or its ``ValueError`` in words."""
    try:
        return call(), ""
    except ValueError as error:
        return None, f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_base_model_is_refused_or_predicts_as_before(
    what: str, whole: Any, base: Path
) -> None:
    _, _, folder, expected = whole
    DAMAGES[what](base)
    found, message = outcome(lambda: load(folder).predict_proba(TEXTS))
    if message:
        assert message.startswith("ValueError")
        assert str(base) in message
    else:
        assert (found == expected).all()


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_model_is_refused_by_name_before_training(what: str, base: Path) -> None:
    DAMAGES[what](base)
    name = str(base)
    for read in (
        load_tokenizer,
        is_encoder,
        load_causal_lm,
        lambda name: load_sequence_classifier(name, 3),
    ):
        _, message = outcome(lambda read=read: read(name))  # type: ignore[misc]
        assert not message or (message.startswith("ValueError") and name in message)
