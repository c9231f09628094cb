"""Likelihood of a causal language model that answers with one of a few tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from pyro.infer.util import is_validation_enabled
from typing_extensions import override

from blob_pyro.lora import Latent, Prior, check_peft_model
from blob_pyro.models.batches import other_inputs
from blob_pyro.models.classifier import Classifier
from blob_pyro.models.positions import (
    Positions,
    check_keeps_logits,
    last_real_columns,
    shortest_window,
)


class LabelTokenClassifier(Classifier):
    """A causal language model whose next token after the prompt names the class.

    The class logits are the logits of the label tokens at the last real token.  The vocabulary's
    logits are computed for that position only.  Examples that offer only the first few classes say
    how many by ``num_options`` (``B``, int64); the logits of the others are ``-inf``.

    Parameters
    ----------
    net
        PEFT model of a causal LM.
    label_token_ids
        One token id a class, all different; may be changed at any time, since no weight depends
        on it.
    num_data
        Number of training examples.
    prior_scale
        Standard deviation of the prior.
    adapter
        Name of the PEFT adapter.
    prior, latent
        See :class:`BayesianLora`.

    Raises
    ------
    ValueError
        If the label tokens are fewer than two, repeat, or lie outside the vocabulary, or if the
        architecture cannot restrict its logits to the last position.

    Examples
    --------
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("llama", "CAUSAL_LM")
    >>> model = LabelTokenClassifier(net, label_token_ids=[7, 9, 11], num_data=10)
    >>> model(input_ids=torch.tensor([[5, 6, 8]])).shape
    torch.Size([1, 3])

    References
    ----------
    Wang et al., "BLoB", NeurIPS 2024, appendix B.1 (the next token's logits over the answers).
    """

    def __init__(
        self,
        net: PeftModel,
        label_token_ids: Sequence[int],
        num_data: int,
        prior_scale: float = 0.2,
        adapter: str = "default",
        *,
        prior: Prior | None = None,
        latent: Latent = ("A",),
    ) -> None:
        check_peft_model(net)
        self._check_tokens(label_token_ids, net.config.get_text_config().vocab_size)
        check_keeps_logits(net, "SequenceClassifier")
        super().__init__(net, num_data, prior_scale, adapter, prior=prior, latent=latent)
        self.label_token_ids = tuple(int(token) for token in label_token_ids)
        self._positions = Positions(net)
        self._window = shortest_window(net)
        # With the padding on the left, one column holds the last real token of every row.
        self.find_padding_side("left", "right")

    @staticmethod
    def _check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
        if len(tokens) < 2 or len(set(tokens)) != len(tokens):
            raise ValueError(
                f"label_token_ids={list(tokens)} must be at least two different tokens, one a "
                "class; choose labels whose first tokens differ"
            )
        if min(tokens) < 0 or max(tokens) >= vocab_size:
            raise ValueError(
                f"label_token_ids={list(tokens)} leave the vocabulary of {vocab_size} tokens; "
                "use this network's own tokenizer"
            )

    @property
    @override
    def num_classes(self) -> int:
        return len(self.label_token_ids)

    @override
    def class_logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        offered = self._num_offered(batch)
        self._check_offered(offered)
        batch = {name: tensor for name, tensor in batch.items() if name != "num_options"}
        side, other = self.padding_side, other_inputs(batch)
        if side == "left" and (other or batch["input_ids"].shape[1] > self._window):
            # The trial knows nothing of so long a row, nor of pictures; on the right, no token sees
            # the padding.
            side = "right"
        batch = self.align(batch, side)
        kept, place = last_real_columns(batch["attention_mask"], side)
        # A network that counts the places in a picture counts those of texts too.
        batch = batch if other else self._positions.add(batch)
        logits: torch.Tensor = self.network(**batch, logits_to_keep=kept, use_cache=False).logits
        rows = torch.arange(len(place), device=logits.device)
        logits = logits[rows, place][:, list(self.label_token_ids)]
        classes = torch.arange(self.num_classes, device=logits.device)
        return logits.masked_fill(classes >= offered[:, None], -torch.inf)

    @override
    def _num_offered(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch.get("num_options", super()._num_offered(batch))

    def _check_offered(self, offered: torch.Tensor) -> None:
        if is_validation_enabled() and int(offered.max()) > self.num_classes:
            raise ValueError(
                f"a question has {int(offered.max())} options but the model has "
                f"{self.num_classes} label tokens; set model.label_token_ids, which no weight "
                "depends on"
            )

    @override
    def likelihood_config(self) -> dict[str, Any]:
        return {"label_token_ids": list(self.label_token_ids)}
