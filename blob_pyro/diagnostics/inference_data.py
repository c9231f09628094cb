"""Posterior draws and predictions as an ArviZ object, for ArviZ 0.2x and 1.x."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from blob_pyro.diagnostics.arrays import FloatArray, Values, as_numpy, check_labels, check_logits
from blob_pyro.diagnostics.chains import Fit, as_fits, check_shape, stack
from blob_pyro.diagnostics.predictive_distribution import log_softmax

Group = dict[str, npt.NDArray[Any]]


def from_pyro_svi(
    predictive: Fit | Sequence[Fit],
    *,
    posterior: Fit | Sequence[Fit] | None = None,
    constant_data: Fit | None = None,
    class_names: Sequence[str] | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Convert the predictions of a guide fitted by SVI to an ArviZ object.

    The draws are independent draws from the guide, not from the exact posterior. So pass
    ``reff=1.0`` to ``arviz.loo`` (which needs at least 25 draws), and read R-hat only across
    independent fits, given as chains.

    Parameters
    ----------
    predictive
        What ``blob_pyro.infer.posterior_predictive`` returns: ``logits`` (K x N x C, float) and,
        where known, ``labels`` (N, integer) and ``log_likelihood`` (K x N, nats). A sequence of
        them makes one chain of each independent fit; all have the same examples in one order.
    posterior
        Draws of chosen sites: site name to K x ..., or a sequence of such mappings, one a chain.
        Without it the group holds the class probabilities, so that ``arviz.loo`` and R-hat work.
        Choose few weights: importance sampling over all of them says nothing.
    constant_data
        What belongs to the examples (text, ids): name to N x ....
    class_names
        C names, the coordinate ``class``; 0 to C - 1 without them.
    coords, dims
        As in ArviZ: values of dimensions, and names of the dimensions of ``posterior`` sites
        (after the draws) and of ``constant_data``. ``coords={"example": ids}`` names examples.
    seed
        Seed of the categorical draws ``posterior_predictive["labels"]``.
    attrs
        Attributes of the object, beside ``inference_library``.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The former from ArviZ 0.2x, the latter from 1.x. Groups, with dimensions:

        - ``posterior``: the chosen sites, or ``probs`` (chain, draw, example, class)
        - ``posterior_predictive``: ``labels`` (chain, draw, example), one categorical draw for
          each posterior draw, and ``probs`` (chain, draw, example, class)
        - ``log_likelihood``: ``labels`` (chain, draw, example), nats, where given
        - ``observed_data``: ``labels`` (example), where given
        - ``constant_data``: what was given

    Raises
    ------
    ValueError
        If shapes, names or labels do not fit together, or a name cannot be written to a file.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.random.default_rng(0).normal(size=(30, 4, 2))
    >>> data = from_pyro_svi({"logits": logits, "labels": [0, 1, 1, 0]}, class_names=["no", "yes"])
    >>> data.posterior_predictive["probs"].dims
    ('chain', 'draw', 'example', 'class')

    References
    ----------
    The InferenceData schema: https://python.arviz.org/en/latest/schema/schema.html
    """
    fits = as_fits("predictive", predictive)
    if "logits" not in fits[0]:
        raise ValueError(
            f"predictive has the names {sorted(fits[0])}; wanted 'logits'. Pass what "
            "blob_pyro.infer.posterior_predictive returns."
        )
    log_p = log_softmax(np.stack([check_logits(chain) for chain in stack("logits", fits)]))
    groups = {"posterior": _sites(posterior, log_p), **_predictive_groups(fits, log_p, seed)}
    if constant_data is not None:
        groups["constant_data"] = _constant_data(constant_data, num_examples=log_p.shape[2])
    site_names = [] if posterior is None else list(groups["posterior"])
    _check_names([*site_names, *groups.get("constant_data", {})])

    class_coord = _class_coord(class_names, num_classes=log_p.shape[3])
    data_dims = {name: ["example"] for name in groups.get("constant_data", {})}
    return _from_dict(
        groups,
        coords={"example": np.arange(log_p.shape[2]), "class": class_coord, **(coords or {})},
        dims={**data_dims, **(dims or {}), "labels": ["example"], "probs": ["example", "class"]},
        attrs={"inference_library": "blob_pyro", **(attrs or {})},
    )


def _sites(posterior: Fit | Sequence[Fit] | None, log_p: FloatArray) -> Group:
    if posterior is None:
        return {"probs": np.exp(log_p)}
    fits = as_fits("posterior", posterior)
    sites = {name: stack(name, fits) for name in fits[0]}
    for name, draws in sites.items():
        check_shape(name, draws, {"chain": log_p.shape[0], "draw": log_p.shape[1]})
    return sites


def _predictive_groups(fits: list[Fit], log_p: FloatArray, seed: int) -> dict[str, Group]:
    num_chains, num_draws, num_examples, num_classes = log_p.shape
    # Gumbel-max: an exact categorical draw from log-probabilities, and never a class of -inf.
    noise = np.random.default_rng(seed).gumbel(size=log_p.shape)
    replicated = np.argmax(log_p + noise, axis=-1)
    groups: dict[str, Group] = {
        "posterior_predictive": {"labels": replicated, "probs": np.exp(log_p)}
    }
    if "log_likelihood" in fits[0]:
        log_lik = stack("log_likelihood", fits)
        wanted = {"chain": num_chains, "draw": num_draws, "example": num_examples}
        check_shape("log_likelihood", log_lik, wanted)
        groups["log_likelihood"] = {"labels": log_lik}
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
        groups["observed_data"] = {"labels": labels}
    return groups


def _constant_data(constant_data: Mapping[str, Values], *, num_examples: int) -> Group:
    arrays = {name: as_numpy(values) for name, values in constant_data.items()}
    for name, array in arrays.items():
        check_shape(name, array, {"example": num_examples})
    return arrays


def _class_coord(class_names: Sequence[str] | None, *, num_classes: int) -> Sequence[str] | Any:
    if class_names is None:
        return np.arange(num_classes)
    if len(class_names) != num_classes:
        raise ValueError(
            f"class_names has {len(class_names)} names; wanted {num_classes}, one for each class "
            "of the logits. Name them in the order of the logits' last dimension."
        )
    return list(class_names)


def _check_names(names: list[str]) -> None:
    for name in names:
        if "/" in name:
            raise ValueError(
                f"the name {name!r} contains '/'; wanted none, since netCDF and DataTree read it "
                "as a path. Rename it, for example with dots."
            )
    for name, count in Counter([*names, "labels", "probs"]).items():
        if count > 1:
            raise ValueError(
                f"the name {name!r} is used {count} times; wanted once among the sites, "
                "constant_data, 'labels' and 'probs', since dims go by name. Rename it."
            )


def _from_dict(
    groups: dict[str, Group],
    *,
    coords: dict[str, Any],
    dims: dict[str, Any],
    attrs: dict[str, Any],
) -> Any:
    import arviz

    from_dict: Any = arviz.from_dict  # its signature depends on the version
    # ArviZ 1.x still has a name `InferenceData`, so only the version tells the two apart.
    if int(arviz.__version__.split(".")[0]) >= 1:
        group_attrs = dict.fromkeys(("/", *groups), attrs)
        return from_dict(groups, coords=coords, dims=dims, attrs=group_attrs)
    data = from_dict(**groups, coords=coords, dims=dims, attrs=dict(attrs))
    for group in groups:
        data[group].attrs.update(attrs)
    return data
