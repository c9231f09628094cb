"""The posterior predictive of the model linearised in its weights, as Laplace-LoRA predicts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

import torch

from blob_pyro.guides import LaplaceGuide
from blob_pyro.infer.data_pass import (
    evaluation_mode,
    log_likelihood,
    on_device,
    own_random_state,
    tracked,
)
from blob_pyro.infer.posterior_draws import Batch, Draw, posterior_draws
from blob_pyro.infer.site_records import SiteRecords
from blob_pyro.models import Classifier

Link = Literal["monte_carlo", "probit"]
Jacobians = dict[str, torch.Tensor]


def linearised_predictive(
    model: Classifier,
    guide: LaplaceGuide,
    loader: Iterable[Batch],
    num_samples: int = 10,
    seed: int | None = None,
    *,
    link: Link = "monte_carlo",
    progress: bool = True,
) -> dict[str, torch.Tensor]:
    r"""Predict a data set with the logits linearised around the posterior's mean.

    :math:`f(x) \approx f_M(x) + J(x) (\theta - M)`, which a Laplace approximation fits better than
    the network itself, since its curvature is that of the linear model.  The logits of an example
    are then normal, with covariance :math:`J \Sigma J^\top` (:func:`linearised_logits`).

    Parameters
    ----------
    model
        The Pyro model.
    guide
        From :func:`laplace`.
    loader
        Batches of keywords for the model, all or none of them with ``labels``; a fixed order.
    num_samples
        Draws K for ``"monte_carlo"``; each is one function, used for the whole data set.
    seed
        Seed of the draws; None goes on with the global random state.
    link
        From normal logits to probabilities: ``"monte_carlo"`` draws, or in closed form
        ``"probit"``, :math:`softmax(f / \sqrt{1 + \pi v / 8})` with the variances v.
    progress
        Show a progress bar on the terminal.

    Returns
    -------
    dict
        As from :func:`posterior_predictive`: ``logits`` (``K x N x C``, K = 1 for ``"probit"``)
        and, if there are labels, ``labels`` (``N``) and ``log_likelihood`` (``K x N``, nats), on
        the CPU.

    Raises
    ------
    ValueError
        If ``link`` is unknown, ``num_samples`` below 1, the loader empty, or only some batches
        have labels.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from blob_pyro.models import SequenceClassifier
    >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
    ...                     num_attention_heads=2, intermediate_size=16, num_labels=3)
    >>> lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    >>> net = get_peft_model(BertForSequenceClassification(config), lora)
    >>> model = SequenceClassifier(net, num_data=2)
    >>> batch = {"input_ids": torch.tensor([[5, 6], [7, 8]])}
    >>> predictive = linearised_predictive(
    ...     model, LaplaceGuide(model), [batch], link="probit", progress=False)
    >>> predictive["logits"].shape
    torch.Size([1, 2, 3])

    References
    ----------
    Yang et al., "Bayesian Low-rank Adaptation for Large Language Models", ICLR 2024
    (Laplace-LoRA); Immer, Korzepa and Bauer, "Improving predictions of Bayesian neural nets via local
    linearization", AISTATS 2021; Gibbs, "Bayesian Gaussian Processes for Regression and
    Classification", 1997 (probit for several classes).
    """
    if link not in get_args(Link):
        raise ValueError(f"link={link!r} is unknown; use one of {[*get_args(Link)]}")
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples}: give the number of draws, 1 or more")
    device = next(model.parameters()).device
    logits, labels = [], []
    deviations: list[Draw] = []
    with evaluation_mode(model), own_random_state(seed):
        for batch in tracked(loader, progress):
            if not deviations and link == "monte_carlo":
                deviations = _deviations(guide, num_samples, seed)
            mean, jacobians = _linearised(model, guide, on_device(device, batch))
            if link == "monte_carlo":
                drawn = mean + torch.stack([_moved(jacobians, draw) for draw in deviations])
            else:
                drawn = _probit(mean, _covariance(guide, jacobians))[None]
            logits.append(drawn.cpu())
            labels += [batch["labels"].cpu()] if "labels" in batch else []
    if not logits:
        raise ValueError("the loader gave no batch; there is nothing to predict")
    predictive = {"logits": torch.cat(logits, dim=1)}
    if labels:
        predictive["labels"] = torch.cat(labels)
        predictive["log_likelihood"] = log_likelihood(predictive["logits"], predictive["labels"])
    return predictive


def linearised_logits(
    model: Classifier, guide: LaplaceGuide, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Give the normal distribution of each example's logits under the linearised model.

    Parameters
    ----------
    model, guide
        The program, its guide from :func:`laplace`.
    batch
        Keywords for the model, B examples, on its device.

    Returns
    -------
    mean, covariance
        ``B x C`` and :math:`J \Sigma J^\top`, ``B x C x C``.

    Examples
    --------
    >>> from peft import LoraConfig, get_peft_model
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> from blob_pyro.models import SequenceClassifier
    >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1,
    ...                     num_attention_heads=2, intermediate_size=16, num_labels=3)
    >>> lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    >>> net = get_peft_model(BertForSequenceClassification(config), lora)
    >>> model = SequenceClassifier(net, num_data=2)
    >>> mean, covariance = linearised_logits(
    ...     model, LaplaceGuide(model), {"input_ids": torch.tensor([[5, 6], [7, 8]])})
    >>> covariance.shape
    torch.Size([2, 3, 3])
    """
    with evaluation_mode(model):
        mean, jacobians = _linearised(model, guide, batch)
    return mean, _covariance(guide, jacobians)


def _linearised(
    model: Classifier, guide: LaplaceGuide, batch: Batch
) -> tuple[torch.Tensor, Jacobians]:
    """Give the logits at the mean, and by site their derivatives ``C x B x r x n``."""
    records = SiteRecords(model, guide.mean(), batch)
    mean = records.logits.detach()
    one = torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
    inputs = records.inputs
    by_class = [records.gradients(direction.expand_as(mean)) for direction in one]
    return mean, {
        name: torch.stack([gradients[name].mT @ given for gradients in by_class])
        for name, given in inputs.items()
    }


def _covariance(guide: LaplaceGuide, jacobians: Jacobians) -> torch.Tensor:
    with torch.no_grad():
        roots = [
            guide.site_posterior(name).scaled(jacobian).flatten(2)
            for name, jacobian in jacobians.items()
        ]
        return torch.stack([torch.einsum("cbi,dbi->bcd", root, root) for root in roots]).sum(0)


def _deviations(guide: LaplaceGuide, num_samples: int, seed: int | None) -> list[Draw]:
    if seed is not None:
        torch.manual_seed(seed)
    mean = guide.mean()
    with torch.no_grad():
        draws = posterior_draws(guide, num_samples, {})
    return [{name: draw[name] - mean[name] for name in mean} for draw in draws]


def _moved(jacobians: Jacobians, deviation: Draw) -> torch.Tensor:
    """Give how much a deviation of the weights moves the logits, ``B x C``."""
    moves = [
        torch.einsum("cbij,ij->bc", jacobian, deviation[name].to(jacobian))
        for name, jacobian in jacobians.items()
    ]
    return torch.stack(moves).sum(0)


def _probit(mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    return mean / (1 + math.pi / 8 * variance).sqrt()
