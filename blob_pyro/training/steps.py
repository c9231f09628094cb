"""Gradient steps on an accelerator: one optimiser for the whole loss, or one for each term."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_linear_schedule_with_warmup

from blob_pyro.guides import LoraGuide
from blob_pyro.infer import DecoupledSVI, ELBOTerms, ReweightedTrace_ELBO, check_gradient
from blob_pyro.models import BayesianLora
from blob_pyro.networks.sharding import average, fsdp_plugin, place, start_alike
from blob_pyro.training.batches import Batch
from blob_pyro.training.config import TrainingConfig


def schedule(config: TrainingConfig) -> Any:
    """Give what makes the schedule of an optimiser: rates that rise, then fall linearly to 0."""
    return partial(
        get_linear_schedule_with_warmup,
        num_warmup_steps=config.num_warmup_steps,
        num_training_steps=config.total_steps,
    )


def adamw(
    parameters: Iterable[nn.Parameter],
    model: BayesianLora,
    guide: LoraGuide,
    config: TrainingConfig,
) -> torch.optim.Optimizer:
    """Make an optimiser with groups for ``B`` and heads; the prior regularises ``A``."""
    named = (*model.named_parameters(), *guide.M.items())
    ups = {id(parameter) for name, parameter in named if "lora_B" in name}
    heads = {id(parameter) for parameter in model.parameters()} - ups
    groups: dict[str, list[nn.Parameter]] = {"M": [], "B": [], "head": []}
    for parameter in parameters:
        key = id(parameter)
        groups["B" if key in ups else "head" if key in heads else "M"].append(parameter)
    own: list[dict[str, Any]] = [
        {"params": groups["M"]},
        {"params": groups["B"], "weight_decay": config.weight_decay},
        {"params": groups["head"], "lr": config.head_learning_rate or config.learning_rate},
    ]
    return torch.optim.AdamW(own, lr=config.learning_rate, weight_decay=0.0)


def descent(
    model: BayesianLora, guide: LoraGuide, config: TrainingConfig
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Make the optimiser with which :func:`blob_pyro.training.fit` trains, and its schedule.

    Parameters
    ----------
    model, guide
        The program, whose parameters get the rates and decays that ``config`` gives their kind.
    config
        Rates and number of steps.

    Returns
    -------
    optimizer, scheduler
        To be stepped once a gradient step; ``Trainer(optimizers=descent(...))`` does it.
    """
    points = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = adamw([*points, *guide.M.parameters()], model, guide, config)
    if spread := guide.scale_parameters():
        optimizer.add_param_group({"params": spread, "lr": config.scale_learning_rate})
    return optimizer, schedule(config)(optimizer)


class Steps:
    """Takes gradient steps by one optimiser of the whole loss; a subclass may take them otherwise.

    A step is the mean over the micro-batches of all processes.  The KL is the same in every
    micro-batch, so their mean counts it once; the likelihood of a micro-batch is scaled up to the
    data set, so their mean is that of the global batch.
    """

    def __init__(
        self,
        model: BayesianLora,
        guide: LoraGuide,
        elbo: ReweightedTrace_ELBO,
        config: TrainingConfig,
        accelerator: Accelerator,
    ) -> None:
        self._elbo, self._accelerator = elbo, accelerator
        self._max_grad_norm = config.max_grad_norm
        # What an earlier fit left at a parameter that is frozen now would count in the norm.
        model.zero_grad()
        module, optimizer = self._make(model, guide, config)
        self._is_sharded = fsdp_plugin(accelerator) is not None
        if self._is_sharded:
            # accelerate would divide what is trained too.
            place(model, accelerator)
            self._module = module.to(accelerator.device)
            self._optimizer = accelerator.prepare_optimizer(optimizer)
            start_alike(self._trained())
        else:
            self._module, self._optimizer = accelerator.prepare(module, optimizer)

    def _make(
        self, model: BayesianLora, guide: LoraGuide, config: TrainingConfig
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Make the module that gives the loss, and the optimiser of its gradients."""
        optimizer, self._schedule = self._descent(model, guide, config)
        return self._elbo(model, guide), optimizer

    def _descent(
        self, model: BayesianLora, guide: LoraGuide, config: TrainingConfig
    ) -> tuple[torch.optim.Optimizer, LRScheduler]:
        """Make optimiser and schedule."""
        return descent(model, guide, config)

    @property
    def lr(self) -> float:
        """Rate of ``B`` and ``M`` in the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def take(self, batches: Sequence[tuple[Batch, float]]) -> tuple[ELBOTerms, float]:
        """Take a step on this process's micro-batches.

        Parameters
        ----------
        batches
            As many as accumulation steps, each with its weight.

        Returns
        -------
        terms, grad_norm
            Means over the micro-batches of all processes; the gradient's norm before clipping.
        """
        step = self._elbo.step
        # Accelerate shares the number between accelerators, so another one may have changed it.
        self._accelerator.gradient_accumulation_steps = len(batches)
        self._accelerator.step = 0
        self._zero_grad()
        prepared = () if self._is_sharded else (self._module,)
        values = []
        with self._weights():
            for batch, weight in batches:
                # A micro-batch is no step: each of them has the KL's weight of this one.
                self._elbo.step = step
                with self._accelerator.accumulate(*prepared):
                    with self._accelerator.autocast():
                        loss, terms = self._loss(batch)
                    self._accelerator.backward(loss * weight)
                values.append(weight * torch.stack([terms.nll, terms.kl, terms.loss]))
        self._elbo.step = step
        if self._is_sharded:
            average(self._accelerator, self._trained())
        nll, kl, loss = self._accelerator.reduce(torch.stack(values).mean(0), "mean")
        terms = ELBOTerms(step, nll, kl, self._elbo.current_weight(), loss)
        return self._descend(terms)

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint has to agree with, beside the training's settings; JSON values."""
        return {}

    def _weights(self) -> AbstractContextManager[None]:
        """Say where the gradients of a step are taken; at the weights as they are."""
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint needs beside the parameters: optimisers, schedules, objective."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"loss": self._elbo, "optim": self._optimizer, "scheduler": self._schedule}
        # Of float16, which scales the loss to keep small gradients from vanishing.
        scaler = self._accelerator.scaler
        return parts if scaler is None else {**parts, "scaler": scaler}

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._module.parameters() if parameter.requires_grad]

    def _zero_grad(self) -> None:
        self._optimizer.zero_grad()

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, ELBOTerms]:
        """Give what to take the gradient of, and the terms of it."""
        loss = self._module(**batch)
        return loss, cast(ELBOTerms, self._elbo.terms)

    def _descend(self, terms: ELBOTerms) -> tuple[ELBOTerms, float]:
        """Move by the gradients that have come together, and count the step."""
        norm = self._clipped_norm()
        # A float16 scaler skips a step whose gradient overflows, and scales less from then on.
        scaled = self._accelerator.scaler is not None
        grad_norm = float(norm) if scaled else check_gradient(norm, terms.step)
        self._optimizer.step()
        if not self._accelerator.optimizer_step_was_skipped:
            self._schedule.step()
        self._elbo.step += 1
        return terms, grad_norm

    def _clipped_norm(self) -> torch.Tensor:
        norm: torch.Tensor = self._accelerator.clip_grad_norm_(
            self._module.parameters(), self._max_grad_norm or math.inf
        )
        return norm


MakeSteps = Callable[
    [BayesianLora, LoraGuide, ReweightedTrace_ELBO, TrainingConfig, Accelerator], Steps
]


class DecoupledSteps(Steps):
    """AdamW on the likelihood, then SGD on the KL divergence.

    Raises
    ------
    ValueError
        With float16, whose scaled gradients the two optimisers would have to share.
    """

    def __init__(self, *program: Any) -> None:
        super().__init__(*program)
        self._svi.optim = self._optimizer

    def _make(
        self, model: BayesianLora, guide: LoraGuide, config: TrainingConfig
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        if self._accelerator.scaler is not None:
            raise ValueError(
                "kl_learning_rate gives the KL an optimiser of its own, which cannot share the "
                "scaled gradients of fp16; use bf16, or leave kl_learning_rate out"
            )
        self._svi = DecoupledSVI(
            model,
            guide,
            partial(adamw, model=model, guide=guide, config=config),
            partial(torch.optim.SGD, lr=cast(float, config.kl_learning_rate)),
            self._elbo,
            scale_updates=config.scale_updates,
            scheduler=schedule(config),
            kl_scheduler=schedule(config),
        )
        return _ExpectedNLL(self._svi), self._svi.optim

    def _parts(self) -> dict[str, Any]:
        return self._svi.parts()

    def _zero_grad(self) -> None:
        self._svi.zero_grad()

    def _descend(self, terms: ELBOTerms) -> tuple[ELBOTerms, float]:
        self._svi.descend_likelihood(self._clipped_norm())
        terms = self._svi.descend_kl(terms.nll, self._averaged)
        return terms, self._svi.grad_norm

    def _averaged(self, gradient: torch.Tensor) -> torch.Tensor:
        # A KL that is estimated from a draw (of a hyper-prior) differs between processes.
        mean: torch.Tensor = self._accelerator.reduce(gradient, "mean")
        return mean


class _ExpectedNLL(nn.Module):
    """The likelihood's half as a module, whose gradients accelerate brings together."""

    def __init__(self, svi: DecoupledSVI) -> None:
        super().__init__()
        self.model, self.guide = svi.model, svi.guide
        self._svi = (svi,)

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        loss = self._svi[0].likelihood_loss(**batch)
        # Data parallelism waits for a gradient of every parameter, and these have none here.
        return loss + 0.0 * sum(parameter.sum() for parameter in self.guide.hyper.parameters())
