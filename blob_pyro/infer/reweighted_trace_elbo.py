"""The ELBO of BLoB: analytic KL, weighted by a schedule over minibatches."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from pyro import poutine
from pyro.infer.elbo import ELBO
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape

from blob_pyro.infer.kl_weight import Schedule, check_schedule, kl_weight
from blob_pyro.poutine import Site, kl_terms, sample_sites


def negative_log_likelihood(model_trace: Trace) -> torch.Tensor:
    """Sum minus the log probability of the observed sites, scaled as their plates say."""
    observed = [name for name, site in sample_sites(model_trace) if _is_data(site)]
    if not observed:
        raise ValueError(
            "the model observed nothing, so there is no likelihood to fit; pass labels=..."
        )
    model_trace.compute_log_prob(lambda name, site: name in observed)
    return -torch.stack([model_trace.nodes[name]["log_prob_sum"] for name in observed]).sum()


def data_size(model_trace: Trace) -> int:
    """Read the size of the data set off the plates around the observed sites."""
    for _, site in sample_sites(model_trace):
        sizes = [
            frame.full_size or frame.size
            for frame in site["cond_indep_stack"]
            if frame.name != "num_particles_vectorized"
        ]
        if _is_data(site) and sizes:
            return math.prod(sizes)
    raise ValueError(
        "per_datum=True needs the data size; observe the data in pyro.plate('data', size=N, "
        "subsample_size=B)"
    )


def _is_data(site: Site) -> bool:
    return bool(site["is_observed"]) and not site["infer"].get("_deterministic", False)


def check_shapes(trace: Trace) -> None:
    """Raise Pyro's ``ValueError`` where a log probability is not of its plates' shape."""
    trace.compute_log_prob(lambda _, site: _is_data(cast(Site, site)))
    for _, site in sample_sites(trace):
        if "log_prob" not in site:
            # The density of a latent may not be needed: its shape is.
            fn, value = site["fn"], site["value"]
            batch = value.shape[: value.dim() - fn.event_dim]
            if not (site["cond_indep_stack"] or fn.batch_shape or batch):
                continue  # a scalar outside of plates, as most are
            shape = torch.broadcast_shapes(fn.batch_shape, batch)
            shaped = {**site, "log_prob": torch.empty(shape, device="meta")}
        else:
            shaped = site
        check_site_shape(cast(Any, shaped), cast(int, math.inf))


@dataclass(frozen=True)
class ELBOTerms:
    """The terms of one evaluation of the ELBO; detached scalars.

    Parameters
    ----------
    step
        Gradient steps taken before the evaluation.
    nll
        Negative log likelihood, nats, scaled up from the batch to the data set.
    kl
        KL divergence of the guide from the prior, nats, all latent sites, unweighted.
    kl_weight
        What ``kl`` was multiplied by.
    loss
        ``nll + kl_weight * kl``, divided by the data size if ``per_datum``: what is optimised.
    """

    step: int
    nll: torch.Tensor
    kl: torch.Tensor
    kl_weight: float
    loss: torch.Tensor

    def __add__(self, other: Self) -> Self:
        """Add up the parts that single draws contribute to one step."""
        nll, kl, loss = self.nll + other.nll, self.kl + other.kl, self.loss + other.loss
        return replace(self, nll=nll, kl=kl, loss=loss)


def check_finite(terms: ELBOTerms) -> None:
    """Raise a ``FloatingPointError`` where the loss is no number, if Pyro's validation is on."""
    if is_validation_enabled() and not math.isfinite(torch_item(terms.loss)):
        raise FloatingPointError(
            f"loss is {float(terms.loss)} at step {terms.step} (nll={float(terms.nll)}, "
            f"kl={float(terms.kl)}, kl_weight={terms.kl_weight}); the parameters are those after "
            "the step before. Lower the learning rate, or clip gradients"
        )


def check_gradient(norm: torch.Tensor, step: int) -> float:
    """Give a gradient's norm, or raise a ``FloatingPointError`` if it is not finite."""
    value = float(norm)
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the gradient's norm is {value} at step {step}; the parameters are those after the "
            "step before. Lower the learning rate"
        )
    return value


class ReweightedTrace_ELBO(ELBO):
    r"""Negative ELBO whose KL divergence is analytic where possible and follows a schedule.

    For minibatch i of a cycle of M the loss is
    :math:`-\frac{N}{B} \sum_b \log p(y_b | x_b, A) + M \lambda_i \kappa \, KL(q, p)`, where
    :math:`\lambda_i` is :func:`blob_pyro.infer.kl_weight` and :math:`\kappa` is ``kl_scale``.  As
    the :math:`\lambda_i` sum to one, the mean of a cycle's losses is the negative ELBO
    (``kl_scale=1``) or that of a tempered ("cold") posterior.

    The weight of the KL belongs to the gradient step: :meth:`loss_and_grads` and
    :meth:`differentiable_loss` use the current step's, and the counter advances when a gradient is
    taken.  :meth:`loss` (as in ``svi.evaluate_loss``) takes the cycle's mean weight, ``kl_scale``.

    Parameters
    ----------
    num_batches
        Length M of the cycle.  With ``ceil(num_data / batch_size)`` a cycle is an epoch.
    schedule
        ``"blob"``, ``"blundell"`` or ``"uniform"``.
    kl_scale
        Factor on the KL: 1 for the ELBO, less for a cold posterior, 0 for maximum likelihood.
    num_particles
        Number of draws that the estimate averages.
    vectorize_particles
        Run the draws in one forward pass instead of a loop.
    max_plate_nesting
        As in Pyro; the models of this library have 1.
    per_datum
        Divide the loss by the data size (read off the plate of the observed site), so that
        learning rates need not follow it.

    Raises
    ------
    ValueError
        If the cycle, schedule or scale is impossible, or the guide cannot be differentiated
        through.
    FloatingPointError
        If the loss is not finite (checked where Pyro's validation is on, as it is by default).
        The step is not counted; with a loop of draws ``grad`` may hold those of earlier draws.

    Examples
    --------
    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> def model():
    ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.0))
    >>> def guide():
    ...     pyro.sample("z", dist.Normal(0.0, 0.5))
    >>> elbo = ReweightedTrace_ELBO(num_batches=1)
    >>> _ = elbo.loss(model, guide)
    >>> round(float(elbo.terms.kl), 4)  # log 2 + (1/4 - 1) / 2
    0.3181

    References
    ----------
    Wang et al., "BLoB", NeurIPS 2024, equation 9 and section 3.3; Blundell et al., ICML 2015.
    """

    def __init__(
        self,
        num_batches: int,
        schedule: Schedule = "blob",
        kl_scale: float = 1.0,
        num_particles: int = 1,
        *,
        vectorize_particles: bool = False,
        max_plate_nesting: float = 1,
        per_datum: bool = False,
    ) -> None:
        check_schedule(num_batches, schedule)
        if not 0 <= kl_scale < math.inf:
            raise ValueError(f"kl_scale={kl_scale} must be finite and not negative")
        if num_particles < 1:
            raise ValueError(f"num_particles={num_particles}: the ELBO needs at least one draw")
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
        )
        self.num_batches = num_batches
        self.schedule: Schedule = schedule
        self.kl_scale = kl_scale
        self.per_datum = per_datum
        self.step = 0
        self.terms: ELBOTerms | None = None

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Estimate the negative ELBO; nothing is counted.

        Returns
        -------
        float
            Nats (per datum if ``per_datum``), the KL weighted by ``kl_scale``.
        """
        with torch.no_grad():
            losses = self._particle_losses(model, guide, args, kwargs, self.kl_scale)
            return sum(torch_item(loss) for loss in losses)

    def differentiable_loss(
        self, model: Any, guide: Any, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Estimate the loss of the current step as a tensor to call ``backward`` on.

        Returns
        -------
        torch.Tensor
            Scalar.  The step counter advances when its gradient is first taken.
        """
        losses = self._particle_losses(model, guide, args, kwargs, self.current_weight())
        loss = torch.stack(list(losses)).sum()
        if loss.requires_grad:
            loss.register_hook(_CountOnce(self))
        return loss

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Estimate the loss of the current step, add its gradients, and count the step.

        Returns
        -------
        float
            The loss whose gradient was taken.
        """
        total = 0.0
        for loss in self._particle_losses(model, guide, args, kwargs, self.current_weight()):
            if loss.requires_grad:
                loss.backward()
            total += torch_item(loss)
        self.step += 1
        return total

    def expected_nll(
        self, model: Any, guide: Any, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, int]:
        """Estimate the likelihood's part of the loss alone; nothing is counted.

        Returns
        -------
        nll, divisor
            Differentiable scalar in nats, scaled up from the batch to the data set; and what the
            loss is divided by (the data size if ``per_datum``, else 1).
        """
        nll, divisor = [], 1
        for model_trace, _ in self._get_traces(model, guide, args, kwargs):
            nll.append(negative_log_likelihood(model_trace) / self.num_particles)
            divisor = self._divisor(model_trace)
        return torch.stack(nll).sum(), divisor

    def current_weight(self) -> float:
        """Give what the KL is multiplied by in the current step."""
        share = kl_weight(self.step, self.num_batches, self.schedule)
        return self.num_batches * share * self.kl_scale

    def state_dict(self) -> dict[str, Any]:
        """Give the step, for a checkpoint, and the settings that it belongs to."""
        names = ("step", "num_batches", "schedule", "kl_scale")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        ValueError
            If the checkpoint was made with other settings.
        """
        for name, value in self.state_dict().items():
            if name != "step" and state[name] != value:
                raise ValueError(
                    f"the checkpoint's ELBO has {name}={state[name]!r} but this one has {value!r}"
                )
        self.step = state["step"]

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        # Unlike Pyro's get_importance_trace, no density is computed that the KL makes needless.
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(
            *args, **kwargs
        )
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        pruned = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
        if is_validation_enabled():
            for trace in pruned:
                check_shapes(trace)
        return pruned

    def _particle_losses(
        self, model: Any, guide: Any, args: Any, kwargs: Any, weight: float
    ) -> Iterator[torch.Tensor]:
        """Yield each draw's part of the loss, and leave their sums in ``terms``."""
        terms = None
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            nll = negative_log_likelihood(model_trace) / self.num_particles
            kl = sum(kl_terms(model_trace, guide_trace), nll.new_zeros(())) / self.num_particles
            loss = (nll + weight * kl) / self._divisor(model_trace)
            part = ELBOTerms(self.step, nll.detach(), kl.detach(), weight, loss.detach())
            terms = part if terms is None else terms + part
            self.terms = terms
            check_finite(part)
            yield loss

    def _divisor(self, model_trace: Trace) -> int:
        return data_size(model_trace) if self.per_datum else 1


class _CountOnce:
    """Advance the step counter the first time that a gradient of the loss is taken."""

    def __init__(self, elbo: ReweightedTrace_ELBO) -> None:
        self.elbo: ReweightedTrace_ELBO | None = elbo

    def __call__(self, grad: torch.Tensor) -> None:
        if self.elbo is not None:
            self.elbo.step += 1
            self.elbo = None
