"""IVON: variational inference in the shape of an optimiser, by the optional package ivon-opt."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from datasets import Dataset
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from blob_pyro.guides import LoraGuide, LowRankGaussianGuide, PointEstimateGuide
from blob_pyro.infer import ELBOTerms, ReweightedTrace_ELBO
from blob_pyro.lora import NormalPrior
from blob_pyro.models import BayesianLora
from blob_pyro.training import Collator, TrainingConfig, fit
from blob_pyro.training.steps import Steps, adamw, schedule


class IVONSteps(Steps):
    """Newton steps for a guide's means, whose running Hessian gives its scales; AdamW for the rest.

    Parameters
    ----------
    model, guide, elbo, config, accelerator
        As in :class:`blob_pyro.training.steps.Steps`; the guide is a ``LowRankGaussianGuide``.
    newton
        Settings of ``ivon.IVON``: ``lr``, ``beta2`` and ``clip_radius``, see :func:`ivon`.
    """

    def __init__(
        self,
        model: BayesianLora,
        guide: LowRankGaussianGuide,
        elbo: ReweightedTrace_ELBO,
        config: TrainingConfig,
        accelerator: Accelerator,
        **newton: float,
    ) -> None:
        if accelerator.scaler is not None:
            raise ValueError("IVON cannot read the scaled gradients of fp16; use bf16")
        posterior = _posterior_settings(model, elbo.kl_scale, guide.init_scale)
        self._guide = guide.to(accelerator.device)
        self._kl_scale, self._settings = elbo.kl_scale, newton
        self._newton = _optimizer()(guide.M.parameters(), rescale_lr=False, **newton, **posterior)
        self._newton_schedule = schedule(config)(self._newton)
        # The network runs at one point at a time, which IVON moves about the means.
        point = PointEstimateGuide(model)
        point.M = guide.M
        likelihood = ReweightedTrace_ELBO(1, kl_scale=0.0, per_datum=True)
        super().__init__(model, point, likelihood, config, accelerator)

    @override
    def _descent(
        self, model: BayesianLora, guide: LoraGuide, config: TrainingConfig
    ) -> tuple[torch.optim.Optimizer, LRScheduler]:
        points = [parameter for parameter in model.parameters() if parameter.requires_grad]
        adam = adamw(points, model, guide, config)
        return adam, schedule(config)(adam)

    @property
    @override
    def lr(self) -> float:
        return float(self._newton_schedule.get_last_lr()[0])

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return self._settings

    @override
    def state_dict(self) -> dict[str, Any]:
        newton = {"newton": self._newton.state_dict(), "taken": self._newton.current_step}
        return super().state_dict() | newton

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._newton.load_state_dict(state["newton"])
        self._newton.current_step = state["taken"]
        # Torch leaves the tensors of a group where they are.
        (group,) = self._newton.param_groups
        group.update(
            {name: group[name].to(self._accelerator.device) for name in ("momentum", "hess")}
        )

    @override
    def _parts(self) -> dict[str, Any]:
        return super()._parts() | {"newton_scheduler": self._newton_schedule}

    @override
    def _zero_grad(self) -> None:
        super()._zero_grad()
        self._newton.zero_grad()

    @override
    @contextmanager
    def _weights(self) -> Iterator[None]:
        # One draw for all processes and micro-batches: the mean of their gradients is one of it.
        seed = broadcast(torch.randint(2**31, (), device=self._accelerator.device))
        with torch.random.fork_rng():
            torch.manual_seed(int(seed))
            draw = self._newton.sampled_params(train=True)
            means = [mean.data for mean in self._guide.M.parameters()]
            draw.__enter__()
        try:
            yield
        except BaseException:
            for mean, value in zip(self._guide.M.parameters(), means, strict=True):
                mean.data = value
            raise
        draw.__exit__(None, None, None)

    @override
    def _descend(self, terms: ELBOTerms) -> tuple[ELBOTerms, float]:
        _, norm = super()._descend(terms)
        self._newton.step()
        self._newton_schedule.step()
        with torch.no_grad():
            self._write_scales()
            kl = self._guide.kl()
        loss = terms.loss + self._kl_scale * kl / self._guide.model.num_data
        return replace(terms, kl=kl, kl_weight=self._kl_scale, loss=loss), norm

    def _write_scales(self) -> None:
        (group,) = self._newton.param_groups
        precision = group["ess"] * (group["hess"] + group["weight_decay"])
        sizes = [root.numel() for root in self._guide.G.parameters()]
        for root, part in zip(self._guide.G.parameters(), precision.split(sizes), strict=True):
            root.copy_(part.pow(-0.25).view_as(root))


def ivon(
    model: BayesianLora,
    elbo: ReweightedTrace_ELBO,
    data: Dataset,
    collator: Collator,
    config: TrainingConfig,
    *,
    init_scale: float,
    learning_rate: float = 0.1,
    beta2: float = 0.9999,
    clip_radius: float = 0.02,
    **run: Any,
) -> LowRankGaussianGuide:
    r"""Fit BLoB's Gaussian with variational online Newton steps instead of gradients in ``G``.

    IVON descends :math:`\lambda E_q[\bar\ell] + KL(q, p)` for the mean loss :math:`\bar\ell` over N
    data, with :math:`q = N(m, 1 / (\lambda (h + \delta)))` and :math:`h` a running estimate of the
    loss's diagonal Hessian.  With :math:`\lambda = N / \kappa` and :math:`\delta = 1 / (\lambda
    \sigma_p^2)` that is what :class:`blob_pyro.infer.ReweightedTrace_ELBO` of ``kl_scale``
    :math:`\kappa` descends under a prior of scale :math:`\sigma_p`.  Trainable parameters that are
    not latent take AdamW steps.

    The package ``ivon-opt`` is not installed with this library: it is under the GPL, version 3 or
    later, so install it yourself (``pip install 'blob-pyro[ivon]'``) if that suits you.

    Parameters
    ----------
    model
        A model whose prior is ``NormalPrior``; the means start at its adapter's own weights.
    elbo
        Gives :math:`\kappa`, its ``kl_scale``: 1 for the ELBO, less for a cold posterior.  Its
        schedule has no effect.
    data, collator, config
        As in :func:`blob_pyro.training.fit`; the rates of ``config`` are those of AdamW.
    init_scale
        Standard deviation of the posterior at the start; gives the first :math:`h`.
    learning_rate
        Peak rate of IVON, not rescaled by the first :math:`h`: a mean moves by at most
        ``learning_rate * clip_radius`` a step.
    beta2
        Share of :math:`h` that stays at a step.
    clip_radius
        Bound on each entry of a Newton step, before the rate.
    run
        ``validation``, ``checkpoints``, ``accelerator`` and ``on_step`` of
        :func:`blob_pyro.training.fit`.

    Returns
    -------
    LowRankGaussianGuide
        With :math:`m` for its means and :math:`(\lambda (h + \delta))^{-1/4}` for ``G``.

    Raises
    ------
    ImportError
        If ``ivon-opt`` is not installed.
    ValueError
        If the prior is not a ``NormalPrior``, ``elbo.kl_scale`` is 0, the posterior would start as
        wide as the prior, or as in :func:`blob_pyro.training.fit`.

    References
    ----------
    Shen et al., "Variational Learning is Effective for Large Deep Networks", ICML 2024; for LoRA:
    Cong et al., "Variational Low-Rank Adaptation Using IVON", 2024, arXiv 2411.04421.
    """
    guide = LowRankGaussianGuide(model, init_scale)
    steps = partial(IVONSteps, lr=learning_rate, beta2=beta2, clip_radius=clip_radius)
    fit(model, guide, elbo, data, collator, config, steps=steps, **run)
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
    if kl_scale == 0:
        raise ValueError(f"kl_scale={kl_scale} must be positive: it scales the noise")
    ess = model.num_data / kl_scale
    decay = 1 / (ess * model.prior.scale**2)
    hess_init = 1 / (ess * init_scale**2) - decay
    if hess_init <= 0:
        raise ValueError(
            f"init_scale={init_scale} is not below the prior's {model.prior.scale:.3g}, but IVON "
            "has to start narrower than the prior; give a smaller one"
        )
    return {"ess": ess, "weight_decay": decay, "hess_init": hess_init}
