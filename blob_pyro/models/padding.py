"""What is padding, and on which side an architecture needs it."""

from typing import Any, Literal, cast

import torch
from pyro.infer.util import is_validation_enabled
from torch import nn

Side = Literal["left", "right"]
# Inputs of Transformers' networks that have a column a token.
_OF_TOKENS = {
    "input_ids", "attention_mask", "labels", "position_ids", "token_type_ids",
    "mm_token_type_ids", "moe_mm_token_type_ids", "task_type_ids", "langs", "input_mask",
    "global_attention_mask", "cross_attention_mask", "image_attention_mask",
    "image_embeds_position_mask", "bbox", "xpath_tags_seq", "xpath_subs_seq", "input_shape_ids",
    "input_pronunciation_ids",
}  # fmt: skip


def align_padding(
    batch: dict[str, torch.Tensor], side: Side, token: int | None = None
) -> dict[str, torch.Tensor]:
    """Rotate each row so that its padding lies on one side.

    Parameters
    ----------
    batch
        Tensors by name, among them ``attention_mask`` (``B x T``, nonzero where a token is real,
        the real tokens of a row contiguous).  What else is known to have a column a token is
        rotated alike.
    side
        Where the padding shall be.
    token
        What stands there in ``input_ids``; None for what stood there.  Some networks look for their
        own padding token, which need not be the tokenizer's.

    Returns
    -------
    dict
        The same names; tensors of other shapes are passed through.

    Raises
    ------
    ValueError
        If a tensor of such rows and columns is not known to have a column a token, and padding has
        to move.

    Examples
    --------
    >>> mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    >>> align_padding({"input_ids": torch.tensor([[5, 6, 0], [0, 7, 8]]),
    ...                "attention_mask": mask}, "left")["input_ids"]
    tensor([[0, 5, 6],
            [0, 7, 8]])
    """
    mask = batch["attention_mask"]
    length = mask.shape[1]
    positions = torch.arange(length, device=mask.device)
    real = mask != 0
    if side == "right":
        shift = torch.where(real, positions, length).amin(dim=1)
    else:
        shift = torch.where(real, positions, -1).amax(dim=1) + 1
    source = (positions + shift[:, None]) % length
    rows = torch.arange(len(mask), device=mask.device)[:, None]
    alike = {name for name, tensor in batch.items() if tensor.shape[:2] == mask.shape}
    unknown = sorted(alike - _OF_TOKENS)
    if unknown and bool((source != positions).any()):
        raise ValueError(
            f"{unknown[0]} has the shape {tuple(batch[unknown[0]].shape)}, but whether its columns "
            "are those of the tokens is unknown, and padding has to move; pad on the other side "
            f"(tokenizer.padding_side={side!r})"
        )
    aligned = {
        name: tensor[rows, source] if name in alike & _OF_TOKENS else tensor
        for name, tensor in batch.items()
    }
    if token is not None:
        padding = aligned["attention_mask"] == 0
        aligned["input_ids"] = aligned["input_ids"].masked_fill(padding, token)
    return aligned


def mask_of(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, network: nn.Module
) -> torch.Tensor:
    """Give the mask of a batch, all ones where none is needed, or refuse one that is wrong.

    Parameters
    ----------
    input_ids
        ``B x T``, int64.
    attention_mask
        ``B x T``, or None.
    network
        Its ``config`` knows the padding token and the size of the vocabulary.

    Raises
    ------
    ValueError
        If a token is none of the network's, a text is so long that answers would depend on the
        texts before it, there is padding but no mask, the mask has another
        shape, or a row's real tokens are none or not in one piece.

    Examples
    --------
    >>> mask = torch.tensor([[0, 1]])
    >>> mask_of(torch.tensor([[5, 6]]), mask, nn.Identity()) is mask
    True
    """
    _check_vocabulary(input_ids, network)
    _check_length(input_ids, network)
    if attention_mask is not None:
        _check_mask(input_ids, attention_mask)
        return attention_mask
    pad = padding_token(network)
    if pad is not None and bool((input_ids == pad).any()):
        raise ValueError(
            f"input_ids contain the padding token {pad} but there is no attention_mask; pass "
            "the tokenizer's attention_mask (all ones if nothing is padded)"
        )
    return torch.ones_like(input_ids)


def _check_vocabulary(input_ids: torch.Tensor, network: nn.Module) -> None:
    config = getattr(network, "config", None)
    size = getattr(config and config.get_text_config(), "vocab_size", None)
    if size is not None and is_validation_enabled() and bool((input_ids >= size).any()):
        raise ValueError(
            f"input_ids contain the token {int(input_ids.max())} but the network knows {size}; "
            "give its tokenizer, or call network.resize_token_embeddings for tokens that were added"
        )


def _check_length(input_ids: torch.Tensor, network: nn.Module) -> None:
    config: Any = getattr(network, "config", None)
    text_config = config and config.get_text_config()
    rope = getattr(text_config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    if "dynamic" in kinds and input_ids.shape[1] > (most := text_config.max_position_embeddings):
        raise ValueError(
            f"a text has {input_ids.shape[1]} tokens, but beyond {most} the network turns "
            "positions by the longest text that it has read so far (rope_type='dynamic'), so that "
            "answers would depend on what it read before; give shorter texts"
        )


def _check_mask(input_ids: torch.Tensor, mask: torch.Tensor) -> None:
    if mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has the shape {tuple(mask.shape)} but input_ids has "
            f"{tuple(input_ids.shape)}; pass the tokenizer's attention_mask"
        )
    if is_validation_enabled():
        real = torch.nn.functional.pad((mask != 0).long(), (1, 0))
        wrong = ((real.diff(dim=1) > 0).sum(dim=1) != 1).nonzero()
        if len(wrong):
            raise ValueError(
                f"row {int(wrong[0])} of attention_mask has no real token, or padding between real "
                "tokens; leave out empty texts, and pad at one end"
            )


def padding_token(network: nn.Module) -> int | None:
    """Give the token that a network itself knows as padding, None if it knows none."""
    pad: int | None = cast(Any, network).config.get_text_config().pad_token_id
    return pad
