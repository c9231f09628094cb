"""What the last layer of a network reads of a text: one vector."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn

from blob_pyro.lora.projection import in_this_thread, use_of
from blob_pyro.models.padding import Side, align_padding, mask_of, padding_token
from blob_pyro.models.without_dropout import without_dropout


def pooled_features(
    network: nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    base: bool = False,
    padding_side: Side = "right",
) -> torch.Tensor:
    """Give one vector a text: what the last linear layer of a network reads of it.

    With a classification head that is its pooled vector, the mean of the token vectors in a
    :class:`MeanPoolingForSequenceClassification`; without one, the last hidden state at the last
    real token.

    Parameters
    ----------
    network
        A network of Transformers, with a PEFT adapter or without; one that is Bayesian computes
        with its posterior mean.
    batch
        ``input_ids`` (``B x T``) and ``attention_mask``, on the device of the network, padded on
        either side; ``labels`` are left out.
    base
        Without the adapter, and with the head that it replaced.
    padding_side
        The side on which a network with a head takes padding; see
        :meth:`blob_pyro.models.Classifier.find_padding_side`.

    Returns
    -------
    torch.Tensor
        ``B x D``, float32 or wider, without a gradient.

    Examples
    --------
    >>> from blob_pyro.testing import tiny_batch, tiny_network
    >>> pooled_features(tiny_network("bert", "SEQ_CLS"), tiny_batch(rows=4)).shape
    torch.Size([4, 16])
    """
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "num_options")}
    inputs["attention_mask"] = mask_of(batch["input_ids"], batch.get("attention_mask"), network)
    inner = network.get_base_model() if isinstance(network, PeftModel) else network
    writes = cast(Any, inner).get_output_embeddings() is not None
    # No token of a causal LM sees what follows it.
    side: Side = "right" if writes else padding_side
    inputs = align_padding(inputs, side, padding_token(network))
    with use_of(network).bare(), torch.no_grad(), without_dropout(network), ExitStack() as stack:
        if base and isinstance(network, PeftModel):
            stack.enter_context(network.disable_adapter())
        if writes:
            vectors = cast(Any, inner).base_model(**inputs, use_cache=False).last_hidden_state
        else:
            vectors = _read_by_head(inner, inputs)
    if vectors.dim() == 3:
        mask = inputs["attention_mask"] != 0
        columns = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask, columns, 0).amax(dim=1)
        vectors = vectors[torch.arange(len(last), device=mask.device), last]
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


def _read_by_head(network: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    classes = cast(Any, network).config.num_labels
    read: list[torch.Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        # The head is the last to be called.
        read[:] = [args[0]]

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            is_linear = isinstance(module, nn.Linear) and ".lora_" not in name
            if is_linear and module.out_features == classes:
                hooks.enter_context(module.register_forward_pre_hook(in_this_thread(keep)))
        network(**inputs)
    if not read:
        raise ValueError(
            f"{type(network).__name__} has no linear layer with {classes} outputs, so its features "
            "are unknown; load it with AutoModelForSequenceClassification"
        )
    return read[0]
