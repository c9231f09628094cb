"""The model linearised in its weights around a guide's mean, as Laplace-LoRA predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from blob_pyro.infer.posterior_draws import Batch, Draw
from blob_pyro.models import Classifier
from blob_pyro.posthoc.laplace.records import SiteRecords

if TYPE_CHECKING:
    from blob_pyro.posthoc.laplace.guide import LaplaceGuide


class LinearisedModel:
    r"""The logits as a linear function of the weights, :math:`f_M(x) + J(x) (\theta - M)`.

    The curvature of a Laplace approximation is that of this function, so it predicts better with
    draws from the approximation than the network does.  Each batch takes a backward pass for each
    class, whatever the number of draws.

    Parameters
    ----------
    model
        The Pyro model, in evaluation mode.
    guide
        A Laplace approximation, at whose mean the model is linearised.

    References
    ----------
    Immer, Korzepa and Bauer, "Improving predictions of Bayesian neural nets via local
    linearization", AISTATS 2021.
    """

    def __init__(self, model: Classifier, guide: LaplaceGuide) -> None:
        self._model = model
        self._guide = guide
        self._mean = guide.mean()

    def deviations(self, draws: Sequence[Draw]) -> Draw:
        """Give how far K draws lie from the mean, ``K x r x n`` for each site."""
        return {
            name: torch.stack([draw[name] - mean for draw in draws])
            for name, mean in self._mean.items()
        }

    def moved_logits(self, deviations: Draw, batch: Batch) -> torch.Tensor:
        """Give the logits of a batch of B under K deviations from the mean, ``K x B x C``."""
        logits, jacobians = self._linearised(batch)
        moves = [
            torch.einsum("cbij,kij->kbc", jacobian, deviations[name].to(jacobian))
            for name, jacobian in jacobians.items()
        ]
        return logits + torch.stack(moves).sum(0)

    def moments(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Give the logits' means, ``B x C``, and :math:`J \Sigma J^\top`, ``B x C x C``."""
        logits, jacobians = self._linearised(batch)
        covariance = torch.zeros_like(logits).diag_embed()
        with torch.no_grad():
            for name, jacobian in jacobians.items():
                root = self._guide.site_posterior(name).scaled(jacobian).flatten(2)
                covariance = covariance + torch.einsum("cbi,dbi->bcd", root, root)
        return logits, covariance

    def probit_logits(self, batch: Batch) -> torch.Tensor:
        r"""Give :math:`f / \sqrt{1 + \pi v / 8}` for variances v of the logits, ``B x C``.

        Its softmax approximates the mean of the softmax, in closed form.
        """
        logits, covariance = self.moments(batch)
        return logits / (1 + math.pi / 8 * covariance.diagonal(dim1=-2, dim2=-1)).sqrt()

    def _linearised(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Give the logits at the mean, and by site their derivatives, ``C x B x r x n``."""
        records = SiteRecords(self._model, self._mean, batch)
        logits, inputs = records.logits.detach(), records.inputs
        one = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
        by_class = [records.gradients(direction.expand_as(logits)) for direction in one]
        return logits, {
            name: torch.stack([gradients[name].mT @ given for gradients in by_class])
            for name, given in inputs.items()
        }


def linearised_logits(
    model: Classifier, guide: LaplaceGuide, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Give the normal distribution of each example's logits under the linearised model.

    Parameters
    ----------
    model, guide
        The program, its guide from :func:`laplace`; without dropout, ``model.eval()``.
    batch
        Keywords for the model, B examples, on its device.

    Returns
    -------
    mean, covariance
        ``B x C`` and :math:`J \Sigma J^\top`, ``B x C x C``.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.posthoc import LaplaceGuide
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> model = SequenceClassifier(net, num_data=2).eval()
    >>> mean, covariance = linearised_logits(
    ...     model, LaplaceGuide(model), {"input_ids": torch.tensor([[5, 6], [7, 8]])})
    >>> covariance.shape
    torch.Size([2, 3, 3])

    References
    ----------
    Yang et al., "Bayesian Low-rank Adaptation for Large Language Models" (Laplace-LoRA), ICLR 2024.
    """
    return LinearisedModel(model, guide).moments(batch)
