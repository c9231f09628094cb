"""No posterior at all: the point estimate that ordinary LoRA makes."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from typing_extensions import override

from blob_pyro.guides.lora_guide import LoraGuide


class PointEstimateGuide(LoraGuide):
    """A ``Delta`` at ``M``: plain LoRA as a guide.

    Under an ELBO of ``kl_scale=0`` training is maximum likelihood, the same as PEFT without this
    library; with the KL it is MAP, since a point's "KL" is minus the log prior density.

    Parameters
    ----------
    model
        A model of :mod:`blob_pyro.models`; ``M`` starts at its adapter's own weights.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from blob_pyro.models import SequenceClassifier
    >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
    ...                     num_attention_heads=2, intermediate_size=16, num_labels=3)
    >>> lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    >>> net = get_peft_model(BertForSequenceClassification(config), lora)
    >>> guide = PointEstimateGuide(SequenceClassifier(net, num_data=10))
    >>> float(sum(scale.sum() for scale in guide.scale().values()))
    0.0
    """

    is_point = True

    @override
    def site_posterior(self, name: str) -> TorchDistributionMixin:
        return dist.Delta(self.M.pyro_param("M", name), validate_args=False, event_dim=2)

    @override
    def scale(self) -> dict[str, torch.Tensor]:
        return {name: torch.zeros_like(self.M[name]) for name in self.sites}

    @override
    def config(self) -> dict[str, Any]:
        return {}
