"""Pareto-smoothed importance sampling, from ArviZ, where there are draws enough."""

from typing import Any

import numpy as np

from blob_pyro.diagnostics.arviz.from_pyro_svi import is_arviz_1
from blob_pyro.diagnostics.predictive import Values, as_numpy

# A fifth of the draws are the tail, and a generalised Pareto distribution is fitted to five.
FEWEST_DRAWS = 25


def loo(data: Any) -> Any:
    """Estimate by PSIS how well each example is predicted if it is left out of the data.

    It is ``arviz.loo`` with the settings that fit independent draws from a guide (a relative
    efficiency of 1), pointwise, so that ``arviz.compare({"a": loo(a), "b": loo(b)})`` works.

    Parameters
    ----------
    data
        From :func:`~blob_pyro.diagnostics.to_arviz`, with ``log_likelihood`` of the
        *training* examples: an example that the guide never saw cannot be left out.

    Returns
    -------
    arviz.ELPDData
        The expected log pointwise predictive density, nats, and the Pareto k of each example:
        ``elpd_loo`` and ``pareto_k`` with ArviZ 0.2x, ``elpd`` and ``pareto_k`` with 1.x.

    Raises
    ------
    ValueError
        If there is no log-likelihood, or there are fewer than 25 draws over all chains.

    Examples
    --------
    >>> import numpy as np
    >>> from blob_pyro.diagnostics import to_arviz
    >>> rng = np.random.default_rng(0)
    >>> fit = {"logits": rng.normal(size=(100, 8, 2)), "labels": [0, 1] * 4}
    >>> fit["log_likelihood"] = -np.log1p(np.exp(rng.normal(scale=0.1, size=(100, 8))))
    >>> int(loo(to_arviz(fit)).n_data_points)
    8

    References
    ----------
    Vehtari, Gelman, Gabry: "Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC", 2017.
    """
    import arviz

    if not hasattr(data, "log_likelihood"):
        raise ValueError("the data have no log_likelihood; predict labelled examples")
    sizes = data.log_likelihood["labels"].sizes
    _check_num_draws(sizes["chain"] * sizes["draw"])
    return arviz.loo(data, pointwise=True, var_name="labels", reff=1.0)


def pareto_k(log_weights: Values) -> float:
    """Give the k-hat of importance ratios: how far a guide can be trusted with a few weights.

    Below 0.7 (and ``1 - 1 / log10 K``) the guide is close enough to its target for importance
    sampling to correct it; above, it is not, and the estimate of k is all that is to be read.

    Parameters
    ----------
    log_weights
        K, float, nats, up to a constant: what ``blob_pyro.infer.importance_log_weights`` gives
        for a *few* weights. Over all weights of a network k-hat is large for any guide.

    Returns
    -------
    float
        The shape of the generalised Pareto distribution of the largest ratios; the mean of the
        ratios is finite below 1, their variance below 0.5.

    Raises
    ------
    ValueError
        If the weights are not one-dimensional and finite, or there are fewer than 25.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(1).exponential(size=4000)
    >>> 0.4 < pareto_k(0.5 * noise) < 0.6  # ratios with a Pareto tail of shape 0.5
    True

    References
    ----------
    Yao, Vehtari, Simpson, Gelman: "Yes, but did it work? Evaluating variational inference",
    ICML 2018.
    """
    ratios = as_numpy(log_weights).astype(np.float64)
    if ratios.ndim != 1 or not np.isfinite(ratios).all():
        raise ValueError(f"log_weights, {ratios.shape}, must be one finite number a draw")
    _check_num_draws(len(ratios))
    if is_arviz_1():
        from arviz_stats.base import array_stats

        # This one takes log-likelihoods, that is the logs of inverse ratios.
        return float(array_stats.psislw(-ratios)[1])
    import arviz

    return float(arviz.psislw(ratios, reff=1.0)[1])


def _check_num_draws(num_draws: int) -> None:
    if num_draws < FEWEST_DRAWS:
        raise ValueError(
            f"there are {num_draws} draws; PSIS wants num_samples={FEWEST_DRAWS} or, better, 100"
        )
