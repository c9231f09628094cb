"""Predictions of examples as ArviZ groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blob_pyro.diagnostics.arrays import FloatArray, as_numpy, check_labels, check_logits
from blob_pyro.diagnostics.chains import Fit, as_fits, check_shape, stack
from blob_pyro.diagnostics.latent_groups import SAMPLE_DIMS, Dims
from blob_pyro.diagnostics.predictive_distribution import log_softmax

if TYPE_CHECKING:
    import xarray


def stacked_log_probs(name: str, predictive: Fit | Sequence[Fit]) -> tuple[list[Fit], FloatArray]:
    """Check predictions and give their class log-probabilities.

    Parameters
    ----------
    name
        What the predictions are called in an error.
    predictive
        ``logits`` (K x N x C, float) and perhaps more, or one such mapping a chain.

    Returns
    -------
    fits, log_probs
        One mapping a chain; and chain x K x N x C, float64, nats.

    Raises
    ------
    ValueError
        If there are no logits, or they are not valid.

    Examples
    --------
    >>> stacked_log_probs("predictive", {"logits": [[[0.0, 0.0]]]})[1].round(3)
    array([[[[-0.693, -0.693]]]])
    """
    fits = as_fits(name, predictive)
    if "logits" not in fits[0]:
        raise ValueError(
            f"{name} has the names {sorted(fits[0])}; wanted 'logits'. Pass what "
            "blob_pyro.infer.posterior_predictive returns."
        )
    logits = stack("logits", fits)
    return fits, log_softmax(np.stack([check_logits(chain) for chain in logits]))


def replicated_group(log_p: FloatArray, *, example_dim: str, seed: int) -> xarray.Dataset:
    """Make a group of class probabilities, and of one categorical draw from each.

    Parameters
    ----------
    log_p
        chain x draw x N x C, float64, nats.
    example_dim
        Name of the dimension of examples.
    seed
        Seed of the categorical draws.

    Returns
    -------
    xarray.Dataset
        ``labels`` (chain, draw, examples), int64, and ``probs`` (chain, draw, examples, class).

    Examples
    --------
    >>> import numpy as np
    >>> with np.errstate(divide="ignore"):
    ...     log_p = np.log([[[[0.0, 1.0]]]])
    >>> replicated_group(log_p, example_dim="example", seed=0)["labels"].values
    array([[[1]]])
    """
    import xarray

    # Gumbel-max: an exact categorical draw from log-probabilities, and never a class of -inf.
    noise = np.random.default_rng(seed).gumbel(size=log_p.shape)
    labels = np.argmax(log_p + noise, axis=-1)
    dims = (*SAMPLE_DIMS, example_dim)
    return xarray.Dataset({"labels": (dims, labels), "probs": ((*dims, "class"), np.exp(log_p))})


def observed_groups(fits: Sequence[Fit], shape: Sequence[int]) -> dict[str, xarray.Dataset]:
    """Make the groups of labels and of their log-likelihoods, where there are any.

    Parameters
    ----------
    fits
        One mapping a chain.
    shape
        Numbers of chains, draws, examples and classes of the logits.

    Returns
    -------
    dict
        ``log_likelihood`` and ``observed_data``, as far as the fits have them.

    Raises
    ------
    ValueError
        If shapes differ from those of the logits, or labels differ between chains.

    Examples
    --------
    >>> observed_groups([{"labels": [0, 1]}], (1, 30, 2, 2))["observed_data"]["labels"].values
    array([0, 1])
    """
    import xarray

    num_chains, num_draws, num_examples, num_classes = shape
    groups: dict[str, xarray.Dataset] = {}
    if "log_likelihood" in fits[0]:
        log_lik = stack("log_likelihood", fits)
        wanted = {"chain": num_chains, "draw": num_draws, "example": num_examples}
        check_shape("log_likelihood", log_lik, wanted)
        dims = (*SAMPLE_DIMS, "example")
        groups["log_likelihood"] = xarray.Dataset({"labels": (dims, log_lik)})
    if "labels" in fits[0]:
        stacked = stack("labels", fits)
        differs = np.flatnonzero((stacked != stacked[0]).any(axis=0))
        if len(differs):
            raise ValueError(
                f"labels of example {differs[0]} are {stacked[:, differs[0]].tolist()} in the "
                "chains; wanted one label. Predict the same examples in the same order (a loader "
                "without shuffling) with each fit."
            )
        labels = check_labels(stacked[0], num_examples=num_examples, num_classes=num_classes)
        groups["observed_data"] = xarray.Dataset({"labels": ("example", labels)})
    return groups


def constant_group(data: Fit, example_dim: str, num_examples: int, dims: Dims) -> xarray.Dataset:
    """Make a group of what belongs to the examples, such as text and ids.

    Parameters
    ----------
    data
        Name to N x ..., any dtype.
    example_dim
        Name of the dimension of examples.
    num_examples
        N of the logits.
    dims
        Names of the further dimensions, by variable.

    Returns
    -------
    xarray.Dataset
        The variables, examples first.

    Raises
    ------
    ValueError
        If a variable is not of N examples.

    Examples
    --------
    >>> group = constant_group({"id": ["a"]}, "example", 1, {})
    >>> group["id"].dims
    ('example',)
    """
    import xarray

    variables: dict[str, Any] = {}
    for name, values in data.items():
        array = as_numpy(values)
        check_shape(name, array, {example_dim: num_examples})
        further = dims.get(name, [f"{name}_dim_{axis}" for axis in range(array.ndim - 1)])
        variables[name] = ((example_dim, *further), array)
    return xarray.Dataset(variables)
