"""The groups of an ArviZ object, each an ``xarray.Dataset``."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import xarray
from scipy.special import log_softmax

from blob_pyro.diagnostics.arviz.from_pyro_svi import (
    SAMPLE_DIMS,
    Arrays,
    Dims,
    Fit,
    Fits,
    Sizes,
    check_shape,
    named_dataset,
    stacked,
)
from blob_pyro.diagnostics.layer_path import layer_path, site_path
from blob_pyro.diagnostics.loss_curve import TERMS, Records, loss_curve
from blob_pyro.diagnostics.predictive import FloatArray, as_numpy, check_labels, check_logits

# What the two dimensions of a matrix are, by the end of its site's name.
MATRIX_DIMS = {".lora_A.weight": ("rank", "in_feature"), ".lora_B.weight": ("out_feature", "rank")}


def latent_group(name: str, draws: Fits, dims: Dims, sample_shape: Sizes) -> xarray.Dataset:
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
    """
    arrays = stacked(name, draws, sample_shape)
    named = {
        site: [*zip(_dims(site, array.ndim - 2, dims), array.shape[2:], strict=True)]
        for site, array in arrays.items()
    }
    lengths = Counter(dim for dim, _ in {pair for pairs in named.values() for pair in pairs})
    unique = {
        site_path(site): [f"{dim}_{length}" if lengths[dim] > 1 else dim for dim, length in pairs]
        for site, pairs in named.items()
    }
    return named_dataset({site_path(site): arrays[site] for site in named}, SAMPLE_DIMS, unique)


def _dims(site: str, num_dims: int, dims: Dims) -> Sequence[str]:
    for suffix, matrix_dims in MATRIX_DIMS.items():
        if site not in dims and site.endswith(suffix) and num_dims == 2:
            return matrix_dims
    return dims.get(site, [f"{site_path(site)}_dim_{axis}" for axis in range(num_dims)])


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
    """
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
        shapes = sorted({part.shape[2:] for part in parts})
        if len(shapes) > 1:
            raise ValueError(
                f"the layers of {module!r} have weights of the shapes {shapes}; leave by_layer out"
            )
        values = np.stack([part.values for part in parts], axis=2)
        stacked[module] = ((*SAMPLE_DIMS, dim, *parts[0].dims[2:]), values)
    kept = {site: v for site, v in group.data_vars.items() if layer_path(str(site))[1] is None}
    return xarray.Dataset({**kept, **stacked}, coords)


def sample_stats(
    log_q: Fits | None, records: Records | Sequence[Records] | None, sample_shape: Sizes
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
    """
    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    if log_q is not None:
        density = stacked("log_q", log_q, sample_shape)
        variables["log_q"] = ((*SAMPLE_DIMS, "site"), np.stack([*density.values()], axis=-1))
        coords["site"] = [*map(site_path, density)]
    if records is not None:
        one = not records or hasattr(records[0], "step")
        chains = cast("Sequence[Records]", [records] if one else records)
        curves = stacked("records", [*map(loss_curve, chains)], {"chain": sample_shape["chain"]})
        variables |= {term: (("chain", "step"), curves[term]) for term in TERMS}
        coords["step"] = curves["step"][0].astype(int)
    return xarray.Dataset(variables, coords)


def predicted(name: str, predictive: Fits) -> tuple[Arrays, FloatArray]:
    """Check predictions and give their class log-probabilities.

    Parameters
    ----------
    name
        What the predictions are called in an error.
    predictive
        ``logits`` (K x N x C, float) and perhaps more, or one such mapping a chain.

    Returns
    -------
    arrays, log_probs
        All that is in ``predictive``, chain first; and chain x K x N x C, float64, nats.
    """
    arrays = stacked(name, predictive, {})
    if "logits" not in arrays:
        raise ValueError(
            f"{name} has the names {sorted(arrays)}; wanted what posterior_predictive gives: logits"
        )
    return arrays, log_softmax(np.stack([*map(check_logits, arrays["logits"])]), axis=-1)


def replicated_group(log_p: FloatArray, example_dim: str, seed: int) -> xarray.Dataset:
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
    """
    # Gumbel-max: an exact categorical draw from log-probabilities, and never a class of -inf.
    noise = np.random.default_rng(seed).gumbel(size=log_p.shape)
    labels = np.argmax(log_p + noise, axis=-1)
    dims = (*SAMPLE_DIMS, example_dim)
    return xarray.Dataset({"labels": (dims, labels), "probs": ((*dims, "class"), np.exp(log_p))})


def observed_groups(arrays: Arrays, shape: Sequence[int]) -> dict[str, xarray.Dataset]:
    """Make the groups of labels and of their log-likelihoods, where there are any.

    Parameters
    ----------
    arrays
        From :func:`predicted`.
    shape
        Numbers of chains, draws, examples and classes of the logits.

    Returns
    -------
    dict
        ``log_likelihood`` and ``observed_data``, as far as the fits have them.
    """
    groups: dict[str, xarray.Dataset] = {}
    if "log_likelihood" in arrays:
        dims, log_lik = (*SAMPLE_DIMS, "example"), arrays["log_likelihood"]
        check_shape("log_likelihood", log_lik, dict(zip(dims, shape, strict=False)))
        groups["log_likelihood"] = xarray.Dataset({"labels": (dims, log_lik)})
    if "labels" in arrays:
        labels = arrays["labels"]
        differs = np.flatnonzero((labels != labels[0]).any(axis=0))
        if len(differs):
            raise ValueError(
                f"labels of example {differs[0]} are {labels[:, differs[0]].tolist()} in the "
                "chains; wanted one label. Predict without shuffling."
            )
        checked = check_labels(labels[0], num_examples=shape[2], num_classes=shape[3])
        groups["observed_data"] = xarray.Dataset({"labels": ("example", checked)})
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
    """
    arrays = {name: as_numpy(values) for name, values in data.items()}
    for name, array in arrays.items():
        check_shape(name, array, {example_dim: num_examples})
    return named_dataset(arrays, [example_dim], dims)
