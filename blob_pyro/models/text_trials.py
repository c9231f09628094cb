"""What a network does with made-up texts: whether it may be padded, and whether it looks ahead."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn

from blob_pyro.models.batches import Batch

# Texts of the trial of padding; both end alike.
LENGTHS = (11, 6)
_NUM_COMMON = 2
# Relative to what other words change; half precision rounds more.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_COARSE_TOLERANCE = 0.1


def made_up_texts(network: nn.Module, lengths: Sequence[int]) -> Batch:
    """Make random texts without special tokens but for an end, padded on the right.

    Parameters
    ----------
    network
        A network of Transformers, with or without PEFT.
    lengths
        Tokens of each text.

    Returns
    -------
    dict
        ``input_ids`` and ``attention_mask``, on the network's device.

    Raises
    ------
    ValueError
        If the network's configuration says nothing of a vocabulary.
    """
    config = cast(Any, network).config
    text_config = config.get_text_config()
    if not hasattr(text_config, "vocab_size"):
        raise ValueError(
            f"{type(text_config).__name__} has no vocab_size, so no text can be made up to try the "
            "network with; use a network that reads the tokens of a vocabulary"
        )
    special = {
        token
        for part in (config, text_config)
        for name, token in part.to_dict().items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(token, int)
    }
    words = torch.tensor([t for t in range(text_config.vocab_size) if t not in special])
    places = torch.randint(
        len(words), (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0)
    )
    ids, ends = words[places], torch.tensor(lengths)[:, None]
    end = text_config.eos_token_id
    if isinstance(end, int) and end < text_config.vocab_size:
        # Some heads read there.
        ids.scatter_(1, ends - 1, end)
    mask = torch.arange(max(lengths)) < ends
    ids = ids.masked_fill(~mask, text_config.pad_token_id or 0)
    batch = {"input_ids": ids, "attention_mask": mask.long()}
    return {name: tensor.to(cast(Any, network).device) for name, tensor in batch.items()}


def padding_is_exact(network: nn.Module, logits: Callable[[Batch], torch.Tensor]) -> bool:
    """Tell whether two texts, one of them padded, get the logits that each gets alone.

    Parameters
    ----------
    network
        What the logits are computed with.
    logits
        The function from texts, padded on the right, to their logits, ``2 x C``.

    Raises
    ------
    ValueError
        If the network takes one text at a time.
    """
    texts = made_up_texts(network, LENGTHS)
    first, second = texts["input_ids"]
    second[LENGTHS[1] - _NUM_COMMON : LENGTHS[1]] = first[-_NUM_COMMON:]
    wanted = torch.cat(
        [
            logits({name: value[row : row + 1, :length] for name, value in texts.items()})
            for row, length in enumerate(LENGTHS)
        ]
    )
    try:
        found = logits(texts)
    except ValueError as error:
        raise ValueError(
            f"{_kind(network)} can't read two texts at once ({error}); if it has no padding token, "
            "set network.config.pad_token_id to its tokenizer's, or to any token if that has none"
        ) from error
    return same(network, found, wanted)


def same(network: nn.Module, found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Tell whether the logits of two texts differ from those wanted by rounding only."""
    dtype = next(each.dtype for each in network.parameters() if each.is_floating_point())
    # A short window may hide the words that differ; then there is rounding only.
    scale = (wanted[0] - wanted[1]).abs().max() + 0.01 * wanted.abs().max()
    tolerance = _TOLERANCE.get(dtype, _COARSE_TOLERANCE)
    return bool((found - wanted).abs().max() <= tolerance * scale)


def check_causal(network: nn.Module) -> None:
    """Raise a ``ValueError`` if a token is predicted by a network that has read it.

    Parameters
    ----------
    network
        A network of Transformers that gives logits for each token, without dropout.
    """
    if cast(Any, network).device.type == "meta":
        return
    texts = made_up_texts(network, (LENGTHS[0],) * 2)
    text, other = texts["input_ids"]
    other[:-1], other[-1] = text[:-1], text[text != text[-1]][0]
    way_out = "load a causal language model with AutoModelForCausalLM (BERT's: is_decoder=True)"
    try:
        first, second = network(**texts, use_cache=False).logits
    except Exception as error:
        raise ValueError(f"{_kind(network)} can't read a text ({error}); {way_out}") from error
    if not same(network, second[:-1], first[:-1]):
        raise ValueError(
            f"{_kind(network)} is not causal: a token changes the logits of the tokens before it; "
            f"{way_out}"
        )


def _kind(network: nn.Module) -> str:
    return type(cast(Any, network).get_base_model()).__name__
