"""Predictions of examples as ArviZ groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from blob_pyro.diagnostics.arrays import FloatArray, as_numpy, check_labels, check_logits
from blob_pyro.diagnostics.arviz.chains import Fit, as_fits, check_shape, stack
from blob_pyro.diagnostics.layer_path import layer_path
from blob_pyro.diagnostics.loss_curve import TERMS, Records, loss_curve

if TYPE_CHECKING:
    import xarray


Dims: TypeAlias = Mapping[str, Sequence[str]]
SAMPLE_DIMS = ("chain", "draw")
# What the two dimensions of a matrix are, by the end of its site's name.
MATRIX_DIMS = {".lora_A.weight": ("rank", "in_feature"), ".lora_B.weight": ("out_feature", "rank")}


def latent_group(
    name: str, draws: Fit | Sequence[Fit], dims: Dims, sample_shape: Mapping[str, int]
) -> xarray.Dataset:
    """Make a group of the draws of chosen sites, one variable a site.

    A matrix of a site that is named ``....lora_A.weight`` gets the dimensions ``rank`` and
    ``in_feature``, that of ``....lora_B.weight`` ``out_feature`` and ``rank``. Where sites differ
    in the length of one, its name has the length too: ``in_feature_1536``.

    Parameters
    ----------
    name
        Name of the group, for errors.
    draws
        Site name to K x ..., or one such mapping a chain.
    dims
        Names of the dimensions after the draws, by site, in place of those above.
    sample_shape
        Length of ``chain`` and ``draw``; empty where any will do.

    Returns
    -------
    xarray.Dataset
        The sites, ``chain`` and ``draw`` first.

    Raises
    ------
    ValueError
        If fits have other names or shapes than the first, or the draws are not as many as wanted.

    Examples
    --------
    >>> import numpy as np
    >>> group = latent_group("posterior", {"q.lora_A.weight": np.zeros((30, 2, 5))}, {}, {})
    >>> group["q.lora_A.weight"].dims
    ('chain', 'draw', 'rank', 'in_feature')
    """
    import xarray

    fits = as_fits(name, draws)
    arrays = {site: stack(site, fits) for site in fits[0]}
    for site, array in arrays.items():
        check_shape(site, array, sample_shape)
    wanted = {site: _dims(site, array, dims) for site, array in arrays.items()}
    lengths: dict[str, set[int]] = {}
    for site, array in arrays.items():
        for dim, length in zip(wanted[site], array.shape[2:], strict=True):
            lengths.setdefault(dim, set()).add(length)
    variables = {}
    for site, array in arrays.items():
        named = [
            f"{dim}_{length}" if len(lengths[dim]) > 1 else dim
            for dim, length in zip(wanted[site], array.shape[2:], strict=True)
        ]
        variables[site] = ((*SAMPLE_DIMS, *named), array)
    return xarray.Dataset(variables)


def _dims(site: str, array: npt.NDArray[Any], dims: Dims) -> Sequence[str]:
    if site in dims:
        return dims[site]
    for suffix, matrix_dims in MATRIX_DIMS.items():
        if site.endswith(suffix) and array.ndim == 4:
            return matrix_dims
    return [f"{site}_dim_{axis}" for axis in range(array.ndim - 2)]


def stack_layers(group: xarray.Dataset) -> xarray.Dataset:
    """Stack the sites that differ in nothing but the number of their layer.

    Parameters
    ----------
    group
        From :func:`latent_group`.

    Returns
    -------
    xarray.Dataset
        Variables named like the sites, without the number and PEFT's wrapping
        (``model.layers.self_attn.q_proj``), with the dimension and coordinate ``layer`` after the
        draws. Where modules cover different layers each has a dimension of its own,
        ``layer_of_`` and its name. A site without a number stays as it is.

    Raises
    ------
    ValueError
        If the sites of a module differ in shape.

    Examples
    --------
    >>> import numpy as np
    >>> sites = {f"layers.{i}.q.lora_A.weight": np.zeros((30, 2, 5)) for i in (3, 7)}
    >>> group = stack_layers(latent_group("posterior", sites, {}, {}))
    >>> group["layers.q"].dims, group["layer"].values
    (('chain', 'draw', 'layer', 'rank', 'in_feature'), array([3, 7]))
    """
    import xarray

    modules: dict[str, dict[int, xarray.DataArray]] = {}
    for site, variable in group.data_vars.items():
        module, layer = layer_path(str(site))
        if layer is not None:
            modules.setdefault(module, {})[layer] = variable
    one = len({tuple(sorted(layers)) for layers in modules.values()}) == 1
    stacked, coords = {}, {}
    for module, layers in modules.items():
        dim = "layer" if one else f"layer_of_{module}"
        coords[dim] = sorted(layers)
        parts = [layers[layer] for layer in sorted(layers)]
        _check_shapes(module, parts)
        values = np.stack([part.values for part in parts], axis=2)
        stacked[module] = ((*SAMPLE_DIMS, dim, *parts[0].dims[2:]), values)
    kept = {site: v for site, v in group.data_vars.items() if layer_path(str(site))[1] is None}
    return xarray.Dataset({**kept, **stacked}, coords)


def _check_shapes(module: str, parts: Sequence[xarray.DataArray]) -> None:
    shapes = sorted({part.shape[2:] for part in parts})
    if len(shapes) > 1:
        raise ValueError(
            f"the layers of {module!r} have weights of the shapes {shapes}; wanted one shape, to "
            "stack them. Choose sites of one shape, or leave by_layer out."
        )


def sample_stats(
    log_q: Fit | Sequence[Fit] | None,
    records: Records | Sequence[Records] | None,
    sample_shape: Mapping[str, int],
) -> xarray.Dataset:
    """Make the group of the guide's log density and of the curve of the loss.

    Parameters
    ----------
    log_q
        Site name to K, nats; one such mapping a chain; None if not known.
    records
        What was logged of each step; one such sequence a chain; None if not known.
    sample_shape
        Length of ``chain`` and ``draw``.

    Returns
    -------
    xarray.Dataset
        ``log_q`` (chain, draw, site), and ``loss``, ``nll``, ``kl`` and ``kl_weight`` (chain,
        step), as far as known.

    Raises
    ------
    ValueError
        If the chains or draws are not as many as wanted, or fits differ in their steps.

    Examples
    --------
    >>> group = sample_stats({"q": [-1.0, -2.0]}, None, {"chain": 1, "draw": 2})
    >>> group["log_q"].dims
    ('chain', 'draw', 'site')
    """
    import xarray

    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    if log_q is not None:
        fits = as_fits("log_q", log_q)
        sites = list(fits[0])
        density = stack("log_q", [{"log_q": _by_site(fit, sites)} for fit in fits])
        check_shape("log_q", density, sample_shape)
        variables["log_q"] = ((*SAMPLE_DIMS, "site"), density)
        coords["site"] = sites
    if records is not None:
        curves = [loss_curve(each) for each in _by_chain(records)]
        steps = stack("step", curves)
        check_shape("records", steps, {"chain": sample_shape["chain"]})
        variables |= {term: (("chain", "step"), stack(term, curves)) for term in TERMS}
        coords["step"] = steps[0].astype(int)
    return xarray.Dataset(variables, coords)


def _by_site(log_q: Fit, sites: Sequence[str]) -> npt.NDArray[Any]:
    return np.stack([as_numpy(log_q[site]) for site in sites], axis=-1)


def _by_chain(records: Records | Sequence[Records]) -> Sequence[Records]:
    one = not records or hasattr(records[0], "step")
    return cast("Sequence[Records]", [records] if one else records)


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
    return fits, log_softmax(np.stack([check_logits(chain) for chain in logits]), axis=-1)


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
