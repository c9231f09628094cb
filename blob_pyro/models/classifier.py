"""The part that all classification likelihoods share: draws, plate and label site."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from peft import PeftModel
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule

from blob_pyro.lora import CheckpointContexts, LoraSite, bayesianize, lora_sites
from blob_pyro.poutine import local_param


class Classifier(PyroModule):
    """Base of the classification models: a PEFT network under a categorical likelihood.

    A call draws every latent weight first and then runs the network, which holds no Pyro
    statement.  Sites: one latent a LoRA layer, ``logits`` (deterministic, ``B x C``) and
    ``labels`` (observed when given), the last two inside ``pyro.plate("data")`` of size
    ``num_data``.  A subclass implements :meth:`class_logits` and :attr:`num_classes`.

    Parameters
    ----------
    net
        A PEFT model.  If it is not Bayesian yet, :func:`blob_pyro.lora.bayesianize` makes it so.
    num_data
        Number of training examples N; a batch of B counts N / B times.
    prior_scale
        Standard deviation of the prior over ``A``.
    adapter
        Name of the PEFT adapter.
    """

    def __init__(
        self, net: PeftModel, num_data: int, prior_scale: float = 0.2, adapter: str = "default"
    ) -> None:
        super().__init__()
        if num_data < 1:
            raise ValueError(f"num_data={num_data}: a model needs at least one training example")
        if not lora_sites(net, adapter):
            bayesianize(net, prior_scale, adapter)
        self.num_data = num_data
        self.prior_scale = prior_scale
        self.adapter = adapter
        self.net = net
        self.sites: dict[str, LoraSite] = lora_sites(net, adapter)
        self._check_prior_scale()

    def _check_prior_scale(self) -> None:
        for name, site in self.sites.items():
            if site.projection.prior.scale != self.prior_scale:
                raise ValueError(
                    f"site {name!r} has prior_scale={site.projection.prior.scale} but the model "
                    f"was given {self.prior_scale}; pass the same value to both"
                )

    @property
    def network(self) -> PeftModel:
        """The PEFT model, read without the ``pyro.module`` statement of attribute access."""
        return cast(PeftModel, self._modules["net"])

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes C."""

    @abstractmethod
    def class_logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the network: tensors by name, rows first, to logits of shape ``rows x C``."""

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
            Class indices, ``B``, int64; None to sample them.
        **inputs
            Anything else that the network takes, rows first.

        Returns
        -------
        torch.Tensor
            Logits, ``B x C`` (``K x B x C`` under a plate of K draws), float32 or wider.

        Raises
        ------
        ValueError
            If padded text comes without a mask, or a label is out of range.
        """
        batch = {"input_ids": input_ids, "attention_mask": self._mask(input_ids, attention_mask)}
        self._check_labels(labels)
        self._state_point_estimates()
        rows = input_ids.shape[0]
        num_draws = self._draw(input_ids.shape)
        logits = self._tiled_logits({**batch, **inputs}, num_draws)
        with pyro.plate(
            "data",
            max(self.num_data, rows),
            subsample=torch.arange(rows, device=input_ids.device),
            dim=-1,
            device=str(input_ids.device),
        ):
            logits = pyro.deterministic("logits", logits, event_dim=1)
            # Labels are checked above; a NaN is the objective's to report, with step and terms.
            likelihood = dist.Categorical(logits=logits, validate_args=False)
            pyro.sample("labels", likelihood, obs=labels)
        return logits

    def _state_point_estimates(self) -> None:
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                local_param(name, parameter)

    def _draw(self, shape: torch.Size) -> int:
        """Sample every site, hand each projection its draw, and return the number of draws."""
        weights = {name: site.projection.sample() for name, site in self.sites.items()}
        num_draws = max(weight.shape[:-2].numel() for weight in weights.values())
        tiled = torch.Size([num_draws * shape[0], *shape[1:]])
        for name, site in self.sites.items():
            site.projection.install(weights[name], tiled)
        return num_draws

    def _tiled_logits(self, batch: dict[str, torch.Tensor], num_draws: int) -> torch.Tensor:
        if num_draws == 1:
            return _widened(self.class_logits(batch))
        tiled = {
            name: tensor.repeat(num_draws, *[1] * (tensor.dim() - 1))
            for name, tensor in batch.items()
        }
        logits = _widened(self.class_logits(tiled))
        return logits.reshape(num_draws, -1, logits.shape[-1])

    def _mask(self, input_ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if mask is not None:
            return mask
        pad = self.network.config.pad_token_id
        if pad is not None and bool((input_ids == pad).any()):
            raise ValueError(
                f"input_ids contain the padding token {pad} but there is no attention_mask; pass "
                "the tokenizer's attention_mask (all ones if nothing is padded)"
            )
        return torch.ones_like(input_ids)

    def _check_labels(self, labels: torch.Tensor | None) -> None:
        if labels is None or not is_validation_enabled():
            return
        wrong = ((labels < 0) | (labels >= self.num_classes)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"labels[{row}] = {int(labels[row])} but the model has {self.num_classes} classes; "
                f"labels are integers from 0 to {self.num_classes - 1}"
            )

    def gradient_checkpointing_enable(self) -> None:
        """Trade time for memory: recompute the network's layers in the backward pass.

        Unlike the network's own method it is also right when several draws are made before one
        backward pass, since each layer is recomputed with the draw that it first ran with.
        """
        net = self.network
        # The newer name, in whose presence transformers announces the end of the older.
        newer = hasattr(net, "activation_checkpointing_enable")
        enable = net.activation_checkpointing_enable if newer else net.gradient_checkpointing_enable
        enable({"use_reentrant": False, "context_fn": CheckpointContexts(net, self.adapter)})

    def likelihood_config(self) -> dict[str, Any]:
        """Give the constructor's arguments beside ``net``, ``num_data``, prior and adapter."""
        return {}


def _widened(logits: torch.Tensor) -> torch.Tensor:
    """Go up to float32, where the log probabilities of half-precision logits are exact enough."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
