"""Draws from a posterior as what they are: functions, each from a batch to its logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from blob_pyro.guides import LaplaceGuide
from blob_pyro.infer.data_pass import evaluation_mode, on_device, own_random_state
from blob_pyro.infer.draws_at_once import DrawsAtOnce
from blob_pyro.infer.linearised_model import LinearisedModel
from blob_pyro.infer.posterior_draws import Batch, Draw, Guide, posterior_draws
from blob_pyro.models import Classifier


class PosteriorFunctions:
    """K functions drawn from a posterior, for data that come batch by batch without an end.

    Whatever they are called with later, they are the same functions; calls leave nothing behind, so
    the memory of a stream does not grow.

    Parameters
    ----------
    model, guide
        As in :func:`blob_pyro.infer.posterior_predictive`.
    batch
        Any batch, on any device, since a guide of Pyro's may ask for its arguments; nothing is
        predicted yet.
    num_samples
        Number of draws K; 0 for the posterior mean, as one "draw".
    seed
        Seed of the draws; None goes on with the global random state, which a seed leaves as it was.
    parallel
        How many draws share a forward pass, see :func:`blob_pyro.infer.posterior_predictive`.

    Attributes
    ----------
    draws : list of dict
        Site name to value, for each draw.

    Raises
    ------
    ValueError
        If ``num_samples`` or ``parallel`` is out of its range.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
    ...                     num_attention_heads=2, intermediate_size=16, num_labels=3)
    >>> lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    >>> net = get_peft_model(BertForSequenceClassification(config), lora)
    >>> model = SequenceClassifier(net, num_data=2)
    >>> batch = {"input_ids": torch.tensor([[5, 6], [7, 8]])}
    >>> functions = PosteriorFunctions(model, LowRankGaussianGuide(model), batch, num_samples=4)
    >>> functions(batch).shape
    torch.Size([4, 2, 3])
    """

    def __init__(
        self,
        model: Classifier,
        guide: Guide,
        batch: Batch,
        num_samples: int = 10,
        seed: int | None = None,
        *,
        parallel: bool | int = False,
    ) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        with torch.no_grad(), evaluation_mode(model), own_random_state(seed):
            if seed is not None:
                torch.manual_seed(seed)
            self.draws = posterior_draws(guide, num_samples, on_device(self._device, batch))
            self._logits = _logits_of(model, guide, self.draws, num_samples, parallel)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Give the logits of a batch of B, ``K x B x C`` (K = 1 in closed form), on the CPU."""
        with torch.no_grad(), evaluation_mode(self._model):
            return self._logits(on_device(self._device, batch)).cpu()


def _logits_of(
    model: Classifier, guide: Guide, draws: list[Draw], num_samples: int, parallel: bool | int
) -> Callable[[Batch], torch.Tensor]:
    if not isinstance(guide, LaplaceGuide) or not guide.linearised or num_samples == 0:
        return DrawsAtOnce(model, draws, parallel).logits
    linearised = LinearisedModel(model, guide)
    if guide.predictive == "probit":
        return lambda batch: linearised.probit_logits(batch)[None]
    return partial(linearised.moved_logits, linearised.deviations(draws))
