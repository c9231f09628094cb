"""SVI with an optimiser for the likelihood and another one for the KL divergence."""

import math
from collections.abc import Callable, Iterable
from typing import Any, cast, get_args

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from blob_pyro.guides import LoraGuide
from blob_pyro.infer.kl_weight import ScaleUpdates
from blob_pyro.infer.reweighted_trace_elbo import (
    ELBOTerms,
    ReweightedTrace_ELBO,
    check_finite,
    check_gradient,
)
from blob_pyro.models import BayesianLora

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]


class DecoupledSVI:
    r"""BLoB's inference: a step on the likelihood, then a step of its own on the KL divergence.

    In a step, ``optim`` descends :math:`-\frac{N}{B} \sum_b \log p(y_b | x_b, A)`, and ``kl_optim``
    then descends :math:`M \lambda_i \kappa \, KL(q, p)` at the new parameters (both divided by N if
    the loss is ``per_datum``).  An adaptive optimiser would undo the weight of the KL, which scales
    its gradient; a plain SGD on the KL alone does not.

    Which of the two moves the guide's spread (``G``) differs between published codes, so it is an
    argument.

    Parameters
    ----------
    model, guide
        The program.
    optim
        Makes the likelihood's optimiser from parameters, such as
        ``functools.partial(torch.optim.AdamW, lr=1e-4)``.
    kl_optim
        Makes the KL's optimiser, such as ``functools.partial(torch.optim.SGD, lr=0.01)``.
    loss
        The objective, which gives the KL's weight and counts the steps.
    scale_updates
        ``"kl_optim"``, as in the paper's code: only ``kl_optim`` moves the spread, by the gradient
        of both terms.  ``"both"``, as in the later BayesAdapt code: each optimiser moves it by the
        gradient of its own term.
    scheduler, kl_scheduler
        Make the learning-rate schedule of either optimiser, such as
        ``functools.partial(transformers.get_linear_schedule_with_warmup, num_warmup_steps=300,
        num_training_steps=5000)``; None for a constant rate.
    max_grad_norm
        The likelihood's gradient is clipped to this norm; None for no clipping.

    Attributes
    ----------
    grad_norm
        Norm of the last step's likelihood gradient, before clipping.

    Raises
    ------
    ValueError
        If ``scale_updates`` is unknown.
    FloatingPointError
        If a term (where Pyro's validation is on) or the likelihood's gradient is not finite.  Of
        the likelihood, it stops before the step; of the KL, between the two halves.

    Examples
    --------
    >>> from functools import partial
    >>> from blob_pyro.guides import LowRankGaussianGuide
    >>> from blob_pyro.models import SequenceClassifier
    >>> from blob_pyro.testing import tiny_network
    >>> net = tiny_network("bert", "SEQ_CLS")
    >>> model = SequenceClassifier(net, num_data=10)
    >>> svi = DecoupledSVI(
    ...     model, LowRankGaussianGuide(model),
    ...     partial(torch.optim.AdamW, lr=1e-4), partial(torch.optim.SGD, lr=0.01),
    ...     ReweightedTrace_ELBO(num_batches=10, per_datum=True))
    >>> loss = svi.step(input_ids=torch.tensor([[5, 6], [7, 8]]), labels=torch.tensor([0, 2]))
    >>> svi.loss.step
    1

    References
    ----------
    Wang et al., "BLoB", NeurIPS 2024, algorithm 1 and appendix B.1.
    """

    def __init__(
        self,
        model: BayesianLora,
        guide: LoraGuide,
        optim: MakeOptimizer,
        kl_optim: MakeOptimizer,
        loss: ReweightedTrace_ELBO,
        *,
        scale_updates: ScaleUpdates = "kl_optim",
        scheduler: MakeScheduler | None = None,
        kl_scheduler: MakeScheduler | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        if scale_updates not in get_args(ScaleUpdates):
            raise ValueError(
                f"scale_updates={scale_updates!r} is unknown; use 'kl_optim' or 'both'"
            )
        self.model = model
        self.guide = guide
        self.loss = loss
        self.scale_updates = scale_updates
        self.max_grad_norm = max_grad_norm
        self.optim = optim(self._likelihood_parameters())
        self.kl_optim = kl_optim(list(guide.parameters()))
        self.scheduler = scheduler(self.optim) if scheduler else None
        self.kl_scheduler = kl_scheduler(self.kl_optim) if kl_scheduler else None
        self.grad_norm = 0.0
        self._divisor: int

    def _likelihood_parameters(self) -> list[nn.Parameter]:
        points = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        spread = self.guide.scale_parameters() if self.scale_updates == "both" else []
        return [*points, *self.guide.M.parameters(), *spread]

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Take the two half-steps on one batch, the arguments of the model.

        Returns
        -------
        float
            ``nll + kl_weight * kl`` (per datum if the objective is), each as it was descended; the
            terms are in ``loss.terms``.
        """
        self.zero_grad()
        self.likelihood_loss(*args, **kwargs).backward()
        terms = cast(ELBOTerms, self.loss.terms)
        both = (*self.model.parameters(), *self.guide.parameters())
        # What an earlier fit left at a frozen parameter is no part of the norm.
        parameters = [parameter for parameter in both if parameter.requires_grad]
        self.descend_likelihood(clip_grad_norm_(parameters, self.max_grad_norm or math.inf))
        return float(self.descend_kl(terms.nll).loss)

    def zero_grad(self) -> None:
        """Forget the gradients; the first part of :meth:`step`."""
        self.optim.zero_grad()
        self.kl_optim.zero_grad()

    def likelihood_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Estimate what ``optim`` descends; the second part of :meth:`step`.

        Returns
        -------
        torch.Tensor
            Differentiable scalar; its terms, with 0 for the KL, are in ``loss.terms``.
        """
        nll, self._divisor = self.loss.expected_nll(self.model, self.guide, *args, **kwargs)
        # Checked before anything moves; the KL is not known yet.
        value, weight = nll.detach(), self.loss.current_weight()
        zero = value.new_zeros(())
        self.loss.terms = ELBOTerms(self.loss.step, value, zero, weight, value / self._divisor)
        check_finite(self.loss.terms)
        return nll / self._divisor

    def descend_likelihood(self, norm: torch.Tensor) -> None:
        """Move by the likelihood's gradients, of a known norm; the third part of :meth:`step`."""
        self.grad_norm = check_gradient(norm, self.loss.step)
        self.optim.step()
        # Spent; what is left is the spread's, if the spread waits for the other half.
        self.optim.zero_grad()

    def descend_kl(
        self, nll: torch.Tensor, average: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> ELBOTerms:
        """Move by the KL's gradient, and count the step; the last part of :meth:`step`.

        Parameters
        ----------
        nll
            The likelihood's term of this step, for the record.
        average
            Gives the mean of a gradient over the processes; None for one process.

        Returns
        -------
        ELBOTerms
            Both terms, each as it was descended.
        """
        weight, kl = self.loss.current_weight(), self.guide.kl()
        total = (nll + weight * kl.detach()) / self._divisor
        terms = ELBOTerms(self.loss.step, nll, kl.detach(), weight, total)
        self.loss.terms = terms
        check_finite(terms)
        (weight * kl / self._divisor).backward()
        if average is not None:
            # A frozen parameter has none.
            for parameter in self.guide.parameters():
                if parameter.grad is not None:
                    parameter.grad = average(parameter.grad)
        self.kl_optim.step()
        for scheduler in (self.scheduler, self.kl_scheduler):
            if scheduler is not None:
                scheduler.step()
        self.loss.step += 1
        return terms

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """Estimate the negative ELBO of a batch, the KL weighted by the cycle's mean weight.

        Returns
        -------
        float
            Nats, per datum if the objective is; no gradient is taken and nothing is counted.
        """
        return self.loss.loss(self.model, self.guide, *args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint needs beside the parameters of model and guide."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        return {"scale_updates": self.scale_updates, **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        ValueError
            If the checkpoint was made with other settings; nothing is changed then.
        """
        parts = self.parts()
        found, wanted = state.keys(), {"scale_updates", *parts}
        if found != wanted or state["scale_updates"] != self.scale_updates:
            raise ValueError(
                f"the checkpoint has {sorted(found)} and scale_updates="
                f"{state.get('scale_updates')!r}, this DecoupledSVI {sorted(wanted)} and "
                f"{self.scale_updates!r}; make it with the checkpoint's settings"
            )
        # The objective first: it refuses settings other than its own.
        for name, part in parts.items():
            part.load_state_dict(state[name])

    def parts(self) -> dict[str, Any]:
        """Give the objective, the optimisers and the schedules, by name."""
        names = ("loss", "optim", "kl_optim", "scheduler", "kl_scheduler")
        parts = {name: getattr(self, name) for name in names}
        return {name: part for name, part in parts.items() if part is not None}
