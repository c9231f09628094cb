"""IVON: variational inference in the shape of an optimiser, by the optional package ivon-opt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch.nn.utils import get_total_norm
from transformers import get_linear_schedule_with_warmup

from blob_pyro.guides import LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer.batches import again_and_again
from blob_pyro.infer.reweighted_trace_elbo import ReweightedTrace_ELBO, check_gradient
from blob_pyro.lora import NormalPrior
from blob_pyro.models import BayesianLora

Batch = Mapping[str, torch.Tensor]


def ivon(
    model: BayesianLora,
    batches: Iterable[Batch],
    *,
    kl_scale: float,
    init_scale: float,
    num_steps: int,
    num_warmup_steps: int = 0,
    learning_rate: float = 0.1,
    point_learning_rate: float = 2e-3,
    beta2: float = 0.9999,
    clip_radius: float = 0.02,
) -> LowRankGaussianGuide:
    r"""Fit BLoB's Gaussian with variational online Newton steps instead of gradients in ``G``.

    IVON descends :math:`\lambda E_q[\bar\ell] + KL(q, p)` for the mean loss :math:`\bar\ell` over N
    data, with :math:`q = N(m, 1 / (\lambda (h + \delta)))` and :math:`h` a running estimate of the
    loss's diagonal Hessian.  With :math:`\lambda = N / \kappa` and :math:`\delta = 1 / (\lambda
    \sigma_p^2)` that is what :class:`ReweightedTrace_ELBO` of ``kl_scale`` :math:`\kappa` descends
    under a prior of scale :math:`\sigma_p`.  Trainable parameters that are not latent take AdamW
    steps.

    The package ``ivon-opt`` is not installed with this library: it is under the GPL, version 3 or
    later, so install it yourself (``pip install 'blob-pyro[ivon]'``) if that suits you.

    Parameters
    ----------
    model
        A model whose prior is ``NormalPrior``; the means start at its adapter's own weights.
    batches
        Keywords of the model, on its device; gone through again and again.
    kl_scale
        :math:`\kappa`: 1 for the ELBO, less for a cold posterior.
    init_scale
        Standard deviation of the posterior at the start; gives the first :math:`h`.
    num_steps, num_warmup_steps
        Gradient steps, and those in which the rates rise; then they fall linearly to zero.
    learning_rate
        Peak rate of IVON, not rescaled by the first :math:`h`: a mean moves by at most
        ``learning_rate * clip_radius`` a step.
    point_learning_rate
        Peak rate of AdamW.
    beta2
        Share of :math:`h` that stays at a step.
    clip_radius
        Bound on each entry of a Newton step, before the rate.

    Returns
    -------
    LowRankGaussianGuide
        With :math:`m` for its means and :math:`(\lambda (h + \delta))^{-1/4}` for ``G``.

    Raises
    ------
    ImportError
        If ``ivon-opt`` is not installed.
    ValueError
        If the prior is not a ``NormalPrior``, ``kl_scale`` not positive, the posterior would start
        as wide as the prior, or there is no batch.
    FloatingPointError
        If loss or gradient is not finite.

    References
    ----------
    Shen et al., "Variational Learning is Effective for Large Deep Networks", ICML 2024; for LoRA:
    Cong et al., "Variational Low-Rank Adaptation Using IVON", 2024, arXiv 2411.04421.
    """
    settings = _posterior_settings(model, kl_scale, init_scale)
    guide, means = LowRankGaussianGuide(model, init_scale), PointEstimateGuide(model)
    points = [parameter for parameter in model.parameters() if parameter.requires_grad]
    newton = _optimizer()(
        means.M.parameters(),
        lr=learning_rate,
        beta2=beta2,
        clip_radius=clip_radius,
        rescale_lr=False,
        **settings,
    )
    # Without any other parameter AdamW would refuse to be.
    adam = torch.optim.AdamW(points, lr=point_learning_rate, weight_decay=0.0) if points else None
    optimizers = [newton, adam] if adam else [newton]
    schedules = [
        get_linear_schedule_with_warmup(optimizer, num_warmup_steps, num_steps)
        for optimizer in optimizers
    ]
    loss = ReweightedTrace_ELBO(1, kl_scale=0.0, per_datum=True)(model.train(), means)
    for step, batch in enumerate(islice(again_and_again(batches), num_steps)):
        for optimizer in optimizers:
            optimizer.zero_grad()
        with newton.sampled_params(train=True):
            loss(**batch).backward()
        gradients = [p.grad for p in (*means.M.parameters(), *points) if p.grad is not None]
        check_gradient(get_total_norm(gradients), step)
        for part in (*optimizers, *schedules):
            part.step()
    _become(guide, means, newton)
    return guide


def _optimizer() -> Any:
    try:
        from ivon import IVON
    except ImportError as error:
        raise ImportError(
            "ivon needs the package ivon-opt, which is under the GPL-3.0-or-later and so not "
            "installed with this library; if that suits you, pip install 'blob-pyro[ivon]'"
        ) from error
    return IVON


def _posterior_settings(
    model: BayesianLora, kl_scale: float, init_scale: float
) -> dict[str, float]:
    """Give IVON's names for data size, prior and initial posterior."""
    if not isinstance(model.prior, NormalPrior):
        raise ValueError(
            f"ivon's prior is a weight decay, but the model's is {model.prior}; take "
            "NormalPrior(scale), which prior_scale=... makes"
        )
    if not 0 < kl_scale < math.inf:
        raise ValueError(f"kl_scale={kl_scale} must be positive and finite: it scales the noise")
    ess = model.num_data / kl_scale
    decay = 1 / (ess * model.prior.scale**2)
    hess_init = 1 / (ess * init_scale**2) - decay
    if hess_init <= 0:
        raise ValueError(
            f"init_scale={init_scale} lets the posterior start no narrower than the prior's "
            f"{model.prior.scale:.3g}, which a Hessian above zero forbids; give one below that"
        )
    return {"ess": ess, "weight_decay": decay, "hess_init": hess_init}


@torch.no_grad()
def _become(guide: LowRankGaussianGuide, means: PointEstimateGuide, newton: Any) -> None:
    (group,) = newton.param_groups
    precision = group["ess"] * (group["hess"] + group["weight_decay"])
    sizes = [mean.numel() for _, mean in means.M.items()]
    for (name, mean), part in zip(means.M.items(), precision.split(sizes), strict=True):
        guide.M[name].copy_(mean)
        guide.G[name].copy_(part.pow(-0.25).view_as(mean))
