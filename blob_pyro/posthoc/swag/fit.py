"""SWAG: the Gaussian of the weights that SGD visits at a constant rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import islice

import torch
from torch.nn.utils import get_total_norm

from blob_pyro.guides import PointEstimateGuide
from blob_pyro.infer.batches import again_and_again
from blob_pyro.infer.reweighted_trace_elbo import ReweightedTrace_ELBO, check_gradient
from blob_pyro.models import BayesianLora
from blob_pyro.posthoc.swag.guide import SWAGGuide, check_num_deviations
from blob_pyro.posthoc.swag.moments import PathMoments

Batch = Mapping[str, torch.Tensor]


def swag(
    model: BayesianLora,
    guide: PointEstimateGuide,
    elbo: ReweightedTrace_ELBO,
    batches: Iterable[Batch],
    *,
    learning_rate: float,
    num_steps: int,
    momentum: float = 0.9,
    collect_every: int = 4,
    num_deviations: int = 20,
) -> SWAGGuide:
    r"""Go on from a point estimate by SGD at a constant rate, and fit a Gaussian to its path.

    .. math:: \theta \sim N\left(\bar\theta, \tfrac{1}{2} diag(Var) +
        \tfrac{1}{2 (K - 1)} D D^\top\right),

    with mean and variance over all weights that were collected, and the last K deviations
    :math:`D` from the mean of their time.  What is latent gets this posterior; other trainable
    parameters (``B``, if only ``A`` is latent, and heads) are set to their mean over the path.

    How wide the posterior is depends on the rate and on the batch size: it is that of SGD's noise,
    which only in a special case is the Bayesian posterior.

    Parameters
    ----------
    model, guide
        The fitted program; both walk the path, in place.
    elbo
        What SGD descends: the objective that the point was fitted with, so that it starts at the
        bottom.
    batches
        Keywords of the model, on its device; gone through again and again.
    learning_rate
        Constant.
    num_steps
        Gradient steps.
    momentum
        Of SGD.
    collect_every
        Steps from one collection to the next.
    num_deviations
        K; there have to be as many collections.

    Returns
    -------
    SWAGGuide
        Its draws go into ``model``, whose other parameters are now those of the path.

    Raises
    ------
    ValueError
        If the steps give fewer collections than ``num_deviations``, the rate is not positive and
        finite, momentum or deviations are out of range, or there is no batch.
    FloatingPointError
        If loss or gradient is not finite; the parameters are those after the step before.

    Examples
    --------
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> model = SequenceClassifier(net, num_data=2)
    >>> elbo = ReweightedTrace_ELBO(num_batches=1, kl_scale=1e-3, per_datum=True)
    >>> batch = {"input_ids": torch.tensor([[5, 6], [7, 8]]), "labels": torch.tensor([0, 2])}
    >>> guide = swag(model, PointEstimateGuide(model), elbo, [batch], learning_rate=0.1,
    ...              num_steps=6, collect_every=2, num_deviations=3)
    >>> min(float(scale.min()) for scale in guide.scale().values()) > 0
    True

    References
    ----------
    Maddox et al., "A Simple Baseline for Bayesian Uncertainty in Deep Learning", NeurIPS 2019,
    algorithm 1; for LoRA: Onal et al., 2024, arXiv 2405.03425.
    """
    check_swag(learning_rate, momentum, num_steps, collect_every, num_deviations)
    posterior = SWAGGuide(model, num_deviations)
    points = {name: value for name, value in model.named_parameters() if value.requires_grad}
    latent, others = PathMoments(num_deviations), PathMoments(0)
    parameters = [*points.values(), *guide.M.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)
    module = elbo(model.train(), guide)
    for step, batch in enumerate(islice(again_and_again(batches), num_steps), start=1):
        optimizer.zero_grad()
        module(**batch).backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        check_gradient(get_total_norm(gradients), step - 1)
        optimizer.step()
        if step % collect_every == 0:
            latent.collect(dict(guide.M.items()))
            others.collect(points)
    with torch.no_grad():
        for name, value in points.items():
            value.copy_(others.mean[name])
    posterior.set_moments(latent.mean, latent.variance(), latent.deviations())
    posterior.hyper.load_state_dict(guide.hyper.state_dict())
    return posterior


def check_swag(
    learning_rate: float, momentum: float, num_steps: int, collect_every: int, num_deviations: int
) -> None:
    """Check the settings of :func:`swag`, or raise a ``ValueError``.

    Parameters
    ----------
    learning_rate, momentum, num_steps, collect_every, num_deviations
        Those of the path.

    Examples
    --------
    >>> check_swag(0.02, momentum=0.9, num_steps=200, collect_every=4, num_deviations=20)
    """
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate={learning_rate} must be positive and finite")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum} must lie between 0 and below 1")
    check_num_deviations(num_deviations)
    if collect_every < 1:
        raise ValueError(f"collect_every={collect_every} must be at least 1")
    num_collected = num_steps // collect_every
    if num_collected < num_deviations:
        raise ValueError(
            f"num_steps={num_steps} with collect_every={collect_every} collect {num_collected} "
            f"weights but num_deviations={num_deviations}; take at least "
            f"{num_deviations * collect_every} steps, or fewer deviations"
        )
