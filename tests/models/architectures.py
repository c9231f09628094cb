"""Tiny random networks of Transformers, each with an adapter, and texts for them."""

from __future__ import annotations

import copy
import random
from functools import cache
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3,
    "num_labels": 3, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "decoder_start_token_id": 2,
}  # fmt: skip
DEBERTA = {
    "relative_attention": True, "position_biased_input": False, "share_att_key": True,
    "pos_att_type": ["c2p", "p2c"],
}  # fmt: skip
BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "init_std": 0.3,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 24, "num_experts": 4, "num_local_experts": 4}
ALL = "all-linear"
# All linear layers but those of the experts.
NO_EXPERTS = r".*(q_proj|v_proj|o_proj)"

# Name of the class, then what tells it from others of that class: settings, and adapted layers.
HEADS: dict[str, tuple[dict[str, Any], str | list[str]]] = {
    "AlbertForSequenceClassification": ({"embedding_size": 16}, ALL),
    "BertForSequenceClassification": ({}, ALL),
    "DebertaForSequenceClassification": (DEBERTA, ALL),
    "DebertaV2ForSequenceClassification": (DEBERTA, ALL),
    "DebertaV2ForSequenceClassification, value_proj": (DEBERTA, ["value_proj"]),
    "DistilBertForSequenceClassification": (
        {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
        ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
    ),
    "ElectraForSequenceClassification": ({"embedding_size": 16}, ALL),
    "LongformerForSequenceClassification": ({"attention_window": 4}, ALL),
    "LongformerForSequenceClassification, query and value": (
        {"attention_window": 4},
        ["query", "value"],
    ),
    "ModernBertForSequenceClassification": ({"local_attention": 4}, ALL),
    "MPNetForSequenceClassification": ({}, ALL),
    "RobertaForSequenceClassification": ({}, ALL),
    "NystromformerForSequenceClassification": ({}, ALL),
    "XLNetForSequenceClassification": (
        {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
        ["layer_1", "layer_2"],
    ),
    "XLMRobertaForSequenceClassification": ({}, ALL),
    "BartForSequenceClassification": (BART, ALL),
    "T5ForSequenceClassification": ({"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1}, ALL),
    "BloomForSequenceClassification": ({}, ALL),
    "GPT2ForSequenceClassification": ({}, ALL),
    "LlamaForSequenceClassification": ({}, ALL),
    "LlamaForSequenceClassification, no padding token": ({"pad_token_id": None}, ALL),
    "OPTForSequenceClassification": ({"ffn_dim": 24, "word_embed_proj_dim": 16}, ALL),
    "Qwen3ForSequenceClassification": ({}, ALL),
}
TEXTS: dict[str, tuple[dict[str, Any], str | list[str]]] = {
    "BartForCausalLM": (BART, ALL),
    "BertLMHeadModel": ({}, ALL),
    "BertLMHeadModel, is_decoder": ({"is_decoder": True}, ALL),
    "BloomForCausalLM": ({}, ALL),
    "CohereForCausalLM": ({}, ALL),
    "FalconForCausalLM": ({"ffn_hidden_size": 24}, ALL),
    "FalconForCausalLM, alibi": ({"ffn_hidden_size": 24, "alibi": True}, ALL),
    "FalconMambaForCausalLM": ({"state_size": 4}, ["in_proj", "x_proj"]),
    "Gemma2ForCausalLM": ({"sliding_window": 16, "head_dim": 8}, ALL),
    "Gemma3ForCausalLM": ({"sliding_window": 16, "head_dim": 8}, ALL),
    "GPT2LMHeadModel": ({}, ALL),
    "GPTNeoForCausalLM": (
        {
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
        },
        ALL,
    ),
    "GPTNeoXForCausalLM": ({}, ALL),
    "GptOssForCausalLM": ({**EXPERTS, "sliding_window": 16, "head_dim": 8}, NO_EXPERTS),
    "LlamaForCausalLM": ({}, ALL),
    "LlamaForCausalLM, lm_head too": ({}, ["q_proj", "lm_head"]),
    "Llama4ForCausalLM": (
        {**EXPERTS, "attention_chunk_size": 16, "intermediate_size_mlp": 24, "head_dim": 8},
        NO_EXPERTS,
    ),
    "MambaForCausalLM": ({"state_size": 4}, ["in_proj", "x_proj"]),
    "MistralForCausalLM": ({"sliding_window": 16}, ALL),
    "MixtralForCausalLM": (EXPERTS, NO_EXPERTS),
    "MixtralForCausalLM, experts too": (EXPERTS, ALL),
    "MptForCausalLM": ({"d_model": 16, "n_heads": 2, "n_layers": 2}, ALL),
    "OlmoForCausalLM": ({}, ALL),
    "OPTForCausalLM": ({"ffn_dim": 24, "word_embed_proj_dim": 16}, ALL),
    "Phi3ForCausalLM": ({}, ALL),
    "Qwen2ForCausalLM": ({}, ALL),
    "Qwen2MoeForCausalLM": ({**EXPERTS, "shared_expert_intermediate_size": 24}, ALL),
    "Qwen3ForCausalLM": ({"head_dim": 8}, ALL),
    "RecurrentGemmaForCausalLM": (
        {"num_hidden_layers": 3, "lru_width": 16, "attention_window_size": 16},
        ALL,
    ),
    "RobertaForCausalLM, is_decoder": ({"is_decoder": True}, ALL),
    "RwkvForCausalLM": ({"attention_hidden_size": 16}, ALL),
    "StableLmForCausalLM": ({}, ALL),
    "Starcoder2ForCausalLM": ({"sliding_window": 16}, ALL),
    "XLNetLMHeadModel": (
        {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
        ["layer_1", "layer_2"],
    ),
    "Gemma3ForConditionalGeneration": (
        {
            "text_config": {**SIZES, "sliding_window": 16, "head_dim": 8},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 8,
            },
        },
        r".*language_model.*(q_proj|v_proj|down_proj)",
    ),
    "BartForConditionalGeneration": (BART, ALL),
    "T5ForConditionalGeneration": ({"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1}, ALL),
}
NETWORKS = HEADS | TEXTS


Tensors = dict[str, torch.Tensor]
Text = list[int]


def base(name: str) -> Any:
    """The same random network each time, without dropout."""
    settings, _ = NETWORKS.get(name, ({}, ALL))
    network_class = getattr(transformers, name.partition(",")[0])
    config = network_class.config_class(**SIZES | settings)
    for part in (config, config.get_text_config()):
        for key in part.to_dict():
            if "drop" in key and isinstance(getattr(part, key), float):
                setattr(part, key, 0.0)
    torch.manual_seed(0)
    network = network_class(config)
    if name in TEXTS:
        network.generation_config.forced_eos_token_id = None
    return network


def peft(name: str, weights: Tensors | None = None) -> PeftModel:
    """The network with an ordinary adapter, whose ``lora_A`` are the given ones."""
    return with_draw(_made(name), weights)


@cache
def _made(name: str) -> PeftModel:
    task_type = "SEQ_CLS" if name in HEADS else "CAUSAL_LM"
    with torch.random.fork_rng():
        return with_adapter(base(name), task_type, NETWORKS[name][1])


def with_adapter(network: transformers.PreTrainedModel, task_type: str, targets: Any) -> PeftModel:
    """Put an adapter of rank 2 into a network, its ``lora_B`` random."""
    net = get_peft_model(network, LoraConfig(task_type=task_type, r=2, target_modules=targets))
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.3)
    return net.eval()


def with_draw(net: PeftModel, weights: Tensors | None) -> PeftModel:
    """Copy a network, which is faster than to make it, and put the given ``lora_A`` into it."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for site, weight in (weights or {}).items():
            net.get_parameter(in_peft(site)).copy_(weight)
    return net


def in_peft(site: str) -> str:
    """What PEFT calls the parameter of a site."""
    return site.replace(".weight", ".default.weight")


def raw(name: str, net: PeftModel, text: Text) -> torch.Tensor:
    """All logits of one text without any padding."""
    options = {"use_cache": False} if name in TEXTS else {}
    logits: torch.Tensor = net(input_ids=torch.tensor([text]), **options).logits
    return logits


def texts_of(*lengths: int) -> list[Text]:
    """Random tokens, then an end, where encoder-decoders look."""
    rng = random.Random(0)
    return [[*(rng.randrange(5, 60) for _ in range(length - 1)), 2] for length in lengths]


def batch_of(texts: list[Text], side: str = "right", fill: int = 1) -> Tensors:
    width = max(map(len, texts))
    ids = torch.full((len(texts), width), fill)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        place = slice(width - len(text), width) if side == "left" else slice(len(text))
        ids[row, place], mask[row, place] = torch.tensor(text), 1
    return {"input_ids": ids, "attention_mask": mask}
