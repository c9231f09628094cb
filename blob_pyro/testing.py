"""Tiny random networks, batches and tokenizers, for tests and for examples that run at once."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import WordLevelTrainer
from transformers import PreTrainedTokenizerFast

__all__ = ["tiny_base_folder", "tiny_batch", "tiny_network", "tiny_tokenizer"]

VOCAB_SIZE = 60
PAD = 1
# Wide initial weights: with the usual 0.02 so small a network answers the same whatever it reads.
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "num_labels": 3,
}
TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
DECODER: dict[str, Any] = {
    **SIZES,
    **TRANSFORMER,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
}
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ENCODER: dict[str, Any] = {
    **SIZES,
    **TRANSFORMER,
    **NO_DROPOUT,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
GPT2: dict[str, Any] = {
    **SIZES,
    **{"n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
}
# Sizes, the projections that get an adapter, and the name of the causal LM (None: an encoder).
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], list[str], str | None]] = {
    "bert": ("Bert", ENCODER, ["query", "value"], None),
    "roberta": ("Roberta", ENCODER, ["query", "value"], None),
    "gpt2": ("GPT2", GPT2, ["c_attn"], "GPT2LMHeadModel"),
    "llama": ("Llama", DECODER, ["q_proj", "v_proj"], "LlamaForCausalLM"),
    "qwen2": ("Qwen2", DECODER, ["q_proj", "v_proj"], "Qwen2ForCausalLM"),
}


def tiny_network(architecture: str, task_type: str = "CAUSAL_LM", **options: Any) -> PeftModel:
    """Make a random PEFT model of two layers, three classes and 60 tokens (padding is token 1).

    ``lora_B`` is not zero, so that the answer depends on ``lora_A``.

    Parameters
    ----------
    architecture
        ``"bert"``, ``"roberta"``, ``"gpt2"``, ``"llama"`` or ``"qwen2"``.
    task_type
        PEFT's: ``"CAUSAL_LM"`` or ``"SEQ_CLS"``.
    options
        Settings of ``LoraConfig``.  Rank 2 on query and value, if nothing is said.

    Returns
    -------
    PeftModel
        A network of 16 hidden features.

    Examples
    --------
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> net(torch.tensor([[5, 6, 7]])).logits.shape
    torch.Size([1, 3])
    """
    name, sizes, targets, causal_lm = ARCHITECTURES[architecture]
    head = causal_lm if task_type == "CAUSAL_LM" else f"{name}ForSequenceClassification"
    if head is None:
        raise ValueError(f"{architecture} is an encoder: its task_type is 'SEQ_CLS'")
    network = getattr(transformers, head)(getattr(transformers, f"{name}Config")(**sizes))
    # GPT-2 keeps its weights transposed (Conv1D).
    lora = {"r": 2, "lora_alpha": 4, "target_modules": targets, "fan_in_fan_out": name == "GPT2"}
    net = get_peft_model(network, LoraConfig(task_type=task_type, **{**lora, **options}))
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.3)
    return net


def tiny_batch(rows: int = 4, tokens: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make a right-padded batch of random tokens, with a label of three for each row.

    Examples
    --------
    >>> {name: tuple(value.shape) for name, value in tiny_batch().items()}
    {'input_ids': (4, 6), 'attention_mask': (4, 6), 'labels': (4,)}
    """
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(5, VOCAB_SIZE, (rows, tokens), generator=generator)
    mask = torch.ones_like(input_ids)
    for row in range(rows):
        mask[row, tokens - row % 3 :] = 0
    return {
        "input_ids": input_ids.masked_fill(mask == 0, PAD),
        "attention_mask": mask,
        "labels": torch.randint(0, 3, (rows,), generator=generator),
    }


def tiny_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer of whole words that knows those of the texts.

    Examples
    --------
    >>> tiny_tokenizer(["the toner"]).tokenize("the pink toner")
    ['the', '<unk>', 'toner']
    """
    words = Tokenizer(WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    words.train_from_iterator(texts, WordLevelTrainer(special_tokens=list(special.values())))
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def tiny_base_folder(folder: str | Path, tokenizer: PreTrainedTokenizerFast) -> str:
    """Save a random Llama and its tokenizer as a base model in a local folder.

    Examples
    --------
    >>> import tempfile
    >>> folder = tiny_base_folder(tempfile.mkdtemp(), tiny_tokenizer(["the toner"]))
    >>> transformers.AutoModelForCausalLM.from_pretrained(folder).config.vocab_size
    5
    """
    config = transformers.LlamaConfig(**{**DECODER, "vocab_size": len(tokenizer)})
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
