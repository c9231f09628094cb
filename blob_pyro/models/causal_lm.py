"""Likelihood of the text that a causal language model shall write."""

from typing import Any, cast

import pyro
import torch
from peft import PeftModel
from pyro.infer.util import is_validation_enabled

from blob_pyro.distributions import LabelledTokens
from blob_pyro.lora import Latent, Prior, check_peft_model
from blob_pyro.models.batches import check_inputs, checked_labels, tile, untile
from blob_pyro.models.bayesian_lora import BayesianLora
from blob_pyro.models.padding import align_padding, mask_of, padding_token
from blob_pyro.models.positions import head_at, labelled_first
from blob_pyro.models.text_trials import check_causal

IGNORED = -100


class CausalLM(BayesianLora):
    r"""A causal language model that is fine-tuned on the text that follows a prompt.

    :math:`\log p(y | x, A) = \sum_{t \in labelled} \log p(y_t | x, y_{<t}, A)`, in nats and summed
    over tokens: an example is one datum, however long.  The vocabulary's logits are computed for
    the labelled positions only.  The observed site is ``labels``, inside ``pyro.plate("data")``.

    Parameters
    ----------
    net
        PEFT model of a causal LM.
    num_data
        Number of training examples.
    prior_scale
        Standard deviation of the prior over ``A``.
    adapter
        Name of the PEFT adapter.
    prior, latent
        See :class:`BayesianLora`.

    Raises
    ------
    ValueError
        If the network has no language head, or lets a token see those after it.

    Examples
    --------
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("llama", "CAUSAL_LM")
    >>> model = CausalLM(net, num_data=10)
    >>> model(input_ids=torch.tensor([[5, 6, 7, 8]]),  # a prompt of two tokens
    ...       labels=torch.tensor([[-100, -100, 7, 8]])).shape
    torch.Size([2, 60])
    """

    def __init__(
        self,
        net: PeftModel,
        num_data: int,
        prior_scale: float = 0.2,
        adapter: str = "default",
        *,
        prior: Prior | None = None,
        latent: Latent = ("A",),
    ) -> None:
        check_peft_model(net)
        if _head(net) is None:
            raise ValueError(
                f"{type(net.get_base_model()).__name__} has no language head; load the network "
                "with AutoModelForCausalLM"
            )
        super().__init__(net, num_data, prior_scale, adapter, prior=prior, latent=latent)
        with self.trial():
            check_causal(self.network)
        self._head_is_latent = any(site.layer is _head(net) for site in self.sites.values())

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **inputs: torch.Tensor,
    ) -> torch.Tensor:
        """Run the program on a Hugging Face batch given as keywords.

        Parameters
        ----------
        input_ids
            Token ids, ``B x T``, int64.
        attention_mask
            Nonzero where a token is real, ``B x T``.  May be left out if nothing is padded.
        labels
            ``input_ids`` where a token is to be learned and -100 elsewhere (prompt, padding),
            ``B x T``, int64.  As everywhere in Hugging Face they are not shifted, and the first
            token of a row is never learned.
        **inputs
            Anything else that the network takes: rows first, or the pictures of one row after those
            of the other.

        Returns
        -------
        torch.Tensor
            Logits of the L labelled tokens, row after row, ``L x V`` (``K x L x V`` under a plate
            of K draws), float32 or wider.

        Raises
        ------
        ValueError
            If padded text comes without a mask, labels are absent or have another shape or type, or
            one lies outside the vocabulary.
        """
        labels = self._checked(labels, input_ids.shape)
        mask = mask_of(input_ids, attention_mask, self.network)
        _check_padding(labels, mask)
        batch = {"input_ids": input_ids, "attention_mask": mask, "labels": labels, **inputs}
        check_inputs(batch)
        # On the right, no token sees the padding, and a row's first token has none before it.
        batch = align_padding(batch, "right", padding_token(self.network))
        num_draws = self.draw(input_ids.shape)
        if num_draws > 1:
            self._check_draws_at_once(batch, self._logits)
        logits = untile(self._logits(tile(batch, num_draws)), num_draws)
        targets, labelled = targets_of(batch)
        with self.data_plate(input_ids):
            pyro.sample("labels", LabelledTokens(logits, labelled), obs=targets)
        return logits

    def _checked(self, labels: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
        if labels is None:
            raise ValueError(
                "CausalLM needs labels, B x T, -100 where nothing is to be learned; to write a "
                "text, use blob_pyro.generate"
            )
        labels = checked_labels(labels, shape)
        if is_validation_enabled():
            size = self.network.config.get_text_config().vocab_size
            wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= size))]
            if len(wrong):
                raise ValueError(
                    f"labels hold {int(wrong[0])}, which is not among the {size} tokens of "
                    "the vocabulary; use this network's own tokenizer, and -100 for the prompt"
                )
        return labels

    def _logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Give the logits of the labelled positions, row after row, ``L x V``."""
        _, labelled = targets_of(batch)
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        rows, columns, real = self._positions_of_head(labelled)
        with head_at(_head(self.network), rows, columns):
            logits: torch.Tensor = self.network(**inputs, use_cache=False).logits
        if logits.shape[:-1] != rows.shape:
            raise ValueError(
                f"{type(self.network.get_base_model()).__name__} does not call its language head "
                "as a module, so its logits cannot be restricted to the labelled positions"
            )
        return logits if real is None else logits[real]

    def _positions_of_head(
        self, labelled: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if not self._head_is_latent:
            rows, columns = labelled.nonzero(as_tuple=True)
            return rows, columns, None
        # A latent head has a weight for each draw or example, so its rows have to stay apart.
        columns, real = labelled_first(labelled)
        rows = torch.arange(len(columns), device=columns.device)[:, None].expand_as(columns)
        return rows, columns, real


def targets_of(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the token after each, ``B x (T - 1)``, and whether it is to be learned there."""
    targets = batch["labels"][:, 1:]
    return targets, targets != IGNORED


def _check_padding(labels: torch.Tensor, mask: torch.Tensor) -> None:
    if is_validation_enabled() and bool(((labels != IGNORED) & (mask == 0)).any()):
        raise ValueError(
            "labels hold tokens where attention_mask is 0, so padding would be learned; set those "
            "labels to -100, or the mask to 1 where an end of sequence is to be learned"
        )


def _head(net: PeftModel) -> Any:
    return cast(Any, net.get_base_model()).get_output_embeddings()
