"""Whether a network may be padded, found out by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

Batch = dict[str, torch.Tensor]

_LENGTHS = (11, 6)
# Relative to what the words before a common end change; half precision rounds more.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_COARSE_TOLERANCE = 0.1


def made_up_texts(network: nn.Module, device: torch.device) -> Batch:
    """Make two texts of different lengths that end alike, padded on the right."""
    config = cast(Any, network).config.get_text_config()
    special = {value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    words = [token for token in range(config.vocab_size) if token not in special]
    ids = torch.tensor(words, device=device)[torch.arange(sum(_LENGTHS)) * 7 % len(words)]
    texts = [ids[: _LENGTHS[0]], ids[_LENGTHS[0] :].clone()]
    if isinstance(config.eos_token_id, int) and config.eos_token_id < config.vocab_size:
        # Some heads read there.
        texts = [torch.cat([text[:-1], ids.new_tensor([config.eos_token_id])]) for text in texts]
    texts[1][-2:] = texts[0][-2:]
    pad = nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(texts, batch_first=True),
        "attention_mask": pad([torch.ones_like(text) for text in texts], batch_first=True),
    }


def padding_is_exact(
    logits: Callable[[Batch], torch.Tensor], texts: Batch, dtype: torch.dtype
) -> bool:
    """Tell whether padded texts get the logits that each gets alone, computed in a dtype."""
    alone = [
        logits({name: value[row : row + 1, :length] for name, value in texts.items()})
        for row, length in enumerate(_LENGTHS)
    ]
    wanted = torch.cat(alone)
    tolerance = _TOLERANCE.get(dtype, _COARSE_TOLERANCE)
    try:
        found = logits(texts)
    except ValueError:
        # A decoder with a head takes one text at a time if it knows no padding token.
        return False
    # A short window may hide the words before; then there is rounding only.
    scale = (wanted[0] - wanted[1]).abs().max() + 0.01 * wanted.abs().max()
    return bool((found - wanted).abs().max() <= tolerance * scale)
