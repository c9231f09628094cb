"""Temperature scaling: dividing logits by numbers that are fitted on held-out examples."""

import math
import warnings
from collections.abc import Iterable

import numpy as np
import torch

from blob_pyro.infer.posterior_draws import Batch, Guide
from blob_pyro.infer.posterior_functions import posterior_predictive
from blob_pyro.models import Classifier
from blob_pyro.poutine import in_turn

# Between 1 / 100 and 100; examples that are all answered right would drive it to zero.
_LOG_LIMIT = math.log(100.0)
# Its softmax is exactly zero, and unlike that of -inf its gradient is no NaN.
_ABSENT = -1e30


def fit_temperature(
    logits: torch.Tensor, labels: torch.Tensor, *, per_class: bool = False
) -> torch.Tensor:
    r"""Find the temperature with the lowest negative log-likelihood.

    The predictive probabilities are :math:`\frac{1}{K} \sum_k softmax(z_k / T)`, averaged over
    draws, with :math:`T` one number or one for each class.  LBFGS, in float64.

    Parameters
    ----------
    logits
        Of held-out examples, ``K x N x C``, any floating dtype; ``-inf`` for options that a
        question lacks.
    labels
        Class indices, ``N``, int64.
    per_class
        One temperature for each class, not one for all.

    Returns
    -------
    torch.Tensor
        Scalar, or ``C`` numbers; float64, between 0.01 and 100.

    Raises
    ------
    ValueError
        If there is no example, or ``per_class`` meets questions with different numbers of options.

    Warns
    -----
    UserWarning
        If no temperature is best, since the examples are likeliest at a bound.

    Examples
    --------
    Three answers right and one wrong: at the optimum the confidence is 3/4.

    >>> logits = torch.tensor([[[4.0, 0.0]] * 4])
    >>> T = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))
    >>> (logits[0, 0] / T).softmax(-1)
    tensor([0.7500, 0.2500])

    References
    ----------
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, sections 4.2 (temperature
    scaling) and, for ``per_class``, that of vector scaling without its bias.
    """
    if len(labels) == 0:
        raise ValueError("a temperature needs held-out examples with labels, and there are none")
    absent = logits.isneginf()
    if per_class and bool(absent.any()):
        raise ValueError(
            "per_class=True: some questions have fewer options, so options are no classes; use one "
            "temperature for all (per_class=False)"
        )
    logits = logits.detach().double().masked_fill(absent, _ABSENT)
    free = logits.new_zeros(logits.shape[-1] if per_class else (), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [free], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = _nll(logits / _temperature(free), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    temperature = _temperature(free.detach())
    _warn_of_bounds(logits, labels, temperature)
    return temperature


def _warn_of_bounds(logits: torch.Tensor, labels: torch.Tensor, found: torch.Tensor) -> None:
    """Warn if a bound is as good, wherever the descent grew flat on its way there."""
    nll = _nll(logits / found, labels)
    for bound in (math.exp(-_LOG_LIMIT), math.exp(_LOG_LIMIT)):
        for index in np.ndindex(found.shape):
            at_bound = found.clone()
            at_bound[index] = bound
            if _nll(logits / at_bound, labels) <= nll:
                warnings.warn(
                    f"the temperature {float(found[index]):.3g} is not the best: the {len(labels)} "
                    f"held-out examples are as likely at the bound {bound:.3g}; hold out more "
                    "examples (all answers to these may be right)",
                    stacklevel=3,
                )


def _temperature(free: torch.Tensor) -> torch.Tensor:
    return (_LOG_LIMIT * torch.tanh(free / _LOG_LIMIT)).exp()


def _nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    log_p = logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
    return torch.nn.functional.nll_loss(log_p, labels)


def calibrate(
    model: Classifier,
    guide: Guide,
    loader: Iterable[Batch],
    num_samples: int = 10,
    seed: int | None = None,
    *,
    per_class: bool = False,
) -> torch.Tensor:
    """Fit a model's temperature on held-out examples, in place.

    Whatever predicts with the model afterwards (``posterior_predictive``, ``Predictive``, a saved
    and loaded posterior) divides its logits by it.

    Parameters
    ----------
    model, guide
        A fitted program, with any guide.
    loader
        Batches with labels of examples that the fit has not seen.
    num_samples
        Posterior draws, as many as will predict; 0 for the posterior mean.  A point estimate is its
        own mean.
    seed
        Seed of the draws.
    per_class
        One temperature for each class.

    Returns
    -------
    torch.Tensor
        ``model.temperature``.

    Raises
    ------
    ValueError
        If the batches have no labels, the guide is a student's or predicts in closed form, or as in
        :func:`fit_temperature`; the temperature is the one from before then.
    """
    draws = 0 if getattr(guide, "is_point", False) else num_samples
    if draws and getattr(guide, "predictive", "network") == "probit":
        raise ValueError(
            "predictive='probit' divides logits by variances that depend on the temperature, so "
            "no temperature can be fitted; make the guide with predictive='linearised'"
        )
    if getattr(guide, "predictive", "network") == "dirichlet":
        raise ValueError(
            "a distilled posterior cannot be calibrated, since its adapter would then give other "
            "probabilities; calibrate the posterior that it was distilled from, and distil again"
        )
    with in_turn(), model.use.running():
        temperature = model.temperature
        model.set_temperature(1.0)
        try:
            predictive = posterior_predictive(model, guide, loader, draws, seed, progress=False)
            if "labels" not in predictive:
                raise ValueError("a temperature is fitted to labels, which the batches do not have")
            logits, labels = predictive["logits"], predictive["labels"]
            temperature = fit_temperature(logits, labels, per_class=per_class)
        finally:
            model.set_temperature(temperature)
        return model.temperature
