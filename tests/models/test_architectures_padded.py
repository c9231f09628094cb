"""Padded texts and packed options against unmodified PEFT on each row alone, over architectures."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pyro import poutine
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

from blob_pyro.models import CausalLM, LabelTokenClassifier, OptionLikelihood, SequenceClassifier

PLAIN: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "initializer_range": 0.3,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
SMALL: dict[str, Any] = {"vocab_size": 60, "initializer_range": 0.3, "pad_token_id": 1}
QV = ["q_proj", "v_proj"]
QKV = ["query_key_value"]

# Settings, layers that are adapted, and whether options share a row (None: for short rows).
CAUSAL: dict[str, tuple[dict[str, Any], list[str], bool]] = {
    "llama": (PLAIN, QV, True),
    "mistral": ({**PLAIN, "sliding_window": 5}, QV, False),
    "gemma2": ({**PLAIN, "sliding_window": 5}, QV, False),
    "gemma3_text": ({**PLAIN, "sliding_window": 5}, QV, False),
    "llama4_text": (
        {**PLAIN, "attention_chunk_size": 4, "num_local_experts": 2, "intermediate_size_mlp": 24},
        QV,
        False,
    ),
    "gpt_neo": (
        {
            **SMALL, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24,
            "attention_types": [[["global", "local"], 1]], "window_size": 4,
            "attention_dropout": 0.0,
        },
        QV,
        False,
    ),
    "gpt_neox": (PLAIN, QKV, True),
    "opt": ({**PLAIN, "ffn_dim": 24, "word_embed_proj_dim": 16}, QV, True),
    "bloom": ({**SMALL, "hidden_size": 16, "n_layer": 2, "n_head": 2}, QKV, False),
    "falcon": (
        {
            **SMALL, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "alibi": True, "new_decoder_architecture": False,
        },
        QKV,
        False,
    ),
    "mamba": (
        {**SMALL, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
        ["in_proj"],
        False,
    ),
    "recurrent_gemma": (
        {**PLAIN, "num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 5},
        ["linear_x", "q_proj"],
        False,
    ),
    "rwkv": (
        {**SMALL, "hidden_size": 16, "num_hidden_layers": 2, "attention_hidden_size": 16},
        ["key", "value"],
        False,
    ),
}  # fmt: skip


def adapted(network: Any, task_type: str, targets: list[str]) -> PeftModel:
    net = get_peft_model(network, LoraConfig(task_type=task_type, r=2, target_modules=targets))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return net.eval()


def causal(name: str, **settings: Any) -> PeftModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**CAUSAL[name][0], **settings})
    return adapted(AutoModelForCausalLM.from_config(config), "CAUSAL_LM", CAUSAL[name][1])


def composite(_name: str) -> PeftModel:
    """A vision-language model, which AutoModelForCausalLM may give."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    config = Gemma3Config(text_config={**PLAIN, "sliding_window": 5}, vision_config=vision)
    targets = r".*language_model.*\.(q_proj|v_proj)"
    return adapted(Gemma3ForConditionalGeneration(config), "CAUSAL_LM", targets)  # type: ignore[arg-type]


NETWORKS: dict[str, Callable[[str], PeftModel]] = {
    **dict.fromkeys(CAUSAL, causal),
    "gemma3": composite,
}
on_networks = pytest.mark.parametrize("name", NETWORKS)


def with_mean(model: Any) -> Any:
    """The program at the adapter's own weights, which is what PEFT computes."""
    mean = {name: site.projection.initial_weight for name, site in model.sites.items()}
    return poutine.condition(model, mean)


def rows(seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(5, 60) for _ in range(length)] for length in (11, 3, 7, 1)]


def batch_of(texts: list[list[int]], side: str, fill: int = 1) -> dict[str, torch.Tensor]:
    width = max(map(len, texts))
    ids = torch.full((len(texts), width), fill)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        place = slice(width - len(text), width) if side == "left" else slice(len(text))
        ids[row, place], mask[row, place] = torch.tensor(text), 1
    return {"input_ids": ids, "attention_mask": mask}


def alone(net: Any, text: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = net(input_ids=torch.tensor([text]), use_cache=False).logits[0]
    return logits


@pytest.mark.filterwarnings("ignore")
@on_networks
@pytest.mark.parametrize("side", ["left", "right"])
def test_label_tokens_of_padded_texts(name: str, side: str) -> None:
    texts = rows()
    net = NETWORKS[name](name)
    wanted = torch.stack([alone(net, text)[-1, [7, 9, 11]] for text in texts])
    try:
        model = LabelTokenClassifier(net, [7, 9, 11], num_data=4)
    except ValueError as error:
        assert "has no argument logits_to_keep" in str(error)  # noqa: PT017
        return
    # Whatever stands where nothing is read must not matter.
    for fill in (1, 33):
        found = with_mean(model)(**batch_of(texts, side, fill))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@on_networks
@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_that_are_padded(name: str, side: str) -> None:
    texts = [text for text in rows() if len(text) > 2]
    net = NETWORKS[name](name)
    wanted = torch.stack(
        [-cross_entropy(alone(net, t)[1:-1], torch.tensor(t[2:]), reduction="sum") for t in texts]
    )
    model = with_mean(CausalLM(net, num_data=3))
    batch = batch_of(texts, side)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"].cumsum(1) <= 2, -100)
    labels = labels.masked_fill(batch["attention_mask"] == 0, -100)
    trace = poutine.trace(model).get_trace(**batch, labels=labels)
    trace.compute_log_prob()
    found = trace.nodes["labels"]["unscaled_log_prob"]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@on_networks
@pytest.mark.parametrize("width", [2, 9, 40])
def test_options_share_a_row_or_get_one_each(name: str, width: int) -> None:
    rng = random.Random(width)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(5, 60) for _ in range(count)]

    asked = [
        (tokens(width), [tokens(1), tokens(7), tokens(3)]),
        (tokens(1), [tokens(4), tokens(2)]),
    ]
    net = NETWORKS[name](name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = OptionLikelihood(net, 3, num_data=2)
        except ValueError as error:
            assert "has no argument logits_to_keep" in str(error)  # noqa: PT017
            return
    said = [str(warning.message) for warning in caught if "packed options" in str(warning.message)]
    assert len(said) == (not model.packs)
    assert model.packs == (CAUSAL[name][2] if name in CAUSAL else False)
    texts = [[*prompt, *chain.from_iterable(options)] for prompt, options in asked]
    batch = batch_of(texts, "left")
    owners = [[k for k, option in enumerate(options, 1) for _ in option] for _, options in asked]
    batch["option_ids"] = batch_of(owners, "left", 0)["input_ids"]
    found = with_mean(model)(**batch)
    for row, (prompt, options) in enumerate(asked):
        for k, option in enumerate(options):
            logits = alone(net, prompt + option)[len(prompt) - 1 : -1].log_softmax(-1)
            wanted = logits[range(len(option)), option].mean()
            torch.testing.assert_close(found[row, k], wanted, rtol=1e-4, atol=1e-4)


HEADS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "bert": (PLAIN, ["query", "value"]),
    "roberta": ({**PLAIN, "max_position_embeddings": 40}, ["query", "value"]),
    "xlnet": (
        {**SMALL, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
        ["layer_1"],
    ),
    "llama": (PLAIN, QV),
    "gpt2": ({**SMALL, "n_embd": 16, "n_layer": 2, "n_head": 2}, ["c_attn"]),
    "opt": ({**PLAIN, "ffn_dim": 24, "word_embed_proj_dim": 16}, QV),
    "bloom": (CAUSAL["bloom"][0], QKV),
    "bart": (
        {
            **PLAIN, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24, "init_std": 0.3,
        },
        QV,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_head_pools_no_padding_whatever_token_pads(name: str, side: str) -> None:
    settings, targets = HEADS[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **settings, num_labels=3)
    net = adapted(AutoModelForSequenceClassification.from_config(config), "SEQ_CLS", targets)
    # Encoder-decoders read where a text ends.
    texts = [[*text[:-1], 2] for text in rows() if len(text) > 1]
    with torch.no_grad():
        wanted = torch.cat([net(input_ids=torch.tensor([text])).logits for text in texts])
    model = with_mean(SequenceClassifier(net, num_data=3).eval())
    for fill in (1, 33, 2):
        found = model(**batch_of(texts, side, fill))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_head_that_knows_no_padding_token_takes_texts_of_one_length_only() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **{**PLAIN, "pad_token_id": None}, num_labels=3)
    net = adapted(AutoModelForSequenceClassification.from_config(config), "SEQ_CLS", QV)
    model = with_mean(SequenceClassifier(net, num_data=3).eval())
    text = rows()[0]
    with torch.no_grad():
        wanted = net(input_ids=torch.tensor([text])).logits
    torch.testing.assert_close(model(**batch_of([text], "left")), wanted)
    for texts in (rows(), [text, text]):
        with pytest.raises(ValueError, match=r"pad"):
            model(**batch_of(texts, "right"))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1, 1], [0, 0, 0]], "row 1 of attention_mask has no real token"),
        ([[1, 0, 1], [1, 1, 1]], "row 0 of attention_mask has .* padding between real"),
        ([[1, 1], [1, 1]], r"attention_mask has the shape \(2, 2\) but input_ids has \(2, 3\)"),
    ],
)
def test_masks_that_name_no_text_are_refused(mask: Any, message: str) -> None:
    net = causal("llama")
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    for model in (LabelTokenClassifier(net, [7, 9], 4), CausalLM(net, 4)):
        with pytest.raises(ValueError, match=message):
            model(input_ids=ids, attention_mask=torch.tensor(mask), labels=ids)


def test_a_question_without_a_prompt_is_refused() -> None:
    model = OptionLikelihood(causal("llama"), 2, 4)
    batch = batch_of([[5, 6, 7, 8], [7, 8]], "left")
    with pytest.raises(ValueError, match="row 1 has no prompt, so nothing predicts the first tok"):
        model(**batch, option_ids=torch.tensor([[1, 2], [1, 2]]))


def test_padding_is_not_learned() -> None:
    model = CausalLM(causal("llama"), 4)
    batch = batch_of([[5, 6, 7, 8], [7, 8]], "left")
    with pytest.raises(ValueError, match="labels hold tokens where attention_mask is 0"):
        model(**batch, labels=batch["input_ids"])
