"""Any Pyro program that was fitted by SVI, as an ArviZ object of 0.2x or 1.x.

This file needs nothing else of the library, and neither Pyro nor torch: it may be copied.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray

Fit: TypeAlias = Mapping[str, Any]
Fits: TypeAlias = Fit | Sequence[Fit]
Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Sizes: TypeAlias = Mapping[Any, int]
Dims: TypeAlias = Mapping[str, Sequence[str]]
SAMPLE_DIMS = ("chain", "draw")


def from_pyro_svi(
    posterior: Fits | xarray.Dataset,
    *,
    prior: Fits | xarray.Dataset | None = None,
    posterior_predictive: Fits | xarray.Dataset | None = None,
    prior_predictive: Fits | xarray.Dataset | None = None,
    predictions: Fits | xarray.Dataset | None = None,
    log_likelihood: Fits | xarray.Dataset | None = None,
    log_prior: Fits | xarray.Dataset | None = None,
    sample_stats: Fits | xarray.Dataset | None = None,
    observed_data: Fit | xarray.Dataset | None = None,
    constant_data: Fit | xarray.Dataset | None = None,
    predictions_constant_data: Fit | xarray.Dataset | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Dims | None = None,
    pred_dims: Dims | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Convert draws from a guide that was fitted by SVI to an ArviZ object.

    The draws are independent draws from the guide, not from the exact posterior, so R-hat says
    something only across independent fits, which are given as chains.

    Parameters
    ----------
    posterior
        Site name to K x ..., what ``pyro.infer.Predictive(model, guide=guide, num_samples=K)``
        gives of latent sites; a sequence of such mappings makes one chain of each independent fit.
        Here and below tensors, arrays and sequences are taken, and so is a finished data set.
    prior, prior_predictive
        Draws of sites from the prior, of any number.
    posterior_predictive, predictions
        Draws of observed sites, K x ..., for the data and for new ones.
    log_likelihood, log_prior, sample_stats
        Nats, or anything else that belongs to a draw, K x ....
    observed_data, constant_data, predictions_constant_data
        What does not depend on the draw.
    coords, dims, pred_dims
        As in ArviZ: values of dimensions; names of the dimensions of each variable, after the
        draws; and of those of predictions, where they differ.
    attrs
        Attributes of the object and its groups, beside ``inference_library``.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The former from ArviZ 0.2x, the latter from 1.x, with a group for each argument.

    Raises
    ------
    ValueError
        If shapes or names do not fit together, or a name cannot be written to a file.

    Examples
    --------
    >>> import numpy as np
    >>> draws = np.random.default_rng(0).normal(size=(30, 2))
    >>> data = from_pyro_svi({"weight": draws}, dims={"weight": ["feature"]})
    >>> data.posterior["weight"].dims
    ('chain', 'draw', 'feature')

    References
    ----------
    The InferenceData schema: https://python.arviz.org/en/latest/schema/schema.html
    """
    dims = dims or {}
    new_dims = {**dims, **(pred_dims or {})}
    groups = {"posterior": _group("posterior", posterior, SAMPLE_DIMS, dims, {})}
    sample_shape = {dim: groups["posterior"].sizes[dim] for dim in SAMPLE_DIMS}
    for name, data, leading, names, sizes in (
        ("posterior_predictive", posterior_predictive, SAMPLE_DIMS, dims, sample_shape),
        ("predictions", predictions, SAMPLE_DIMS, new_dims, sample_shape),
        ("log_likelihood", log_likelihood, SAMPLE_DIMS, dims, sample_shape),
        ("log_prior", log_prior, SAMPLE_DIMS, dims, sample_shape),
        ("sample_stats", sample_stats, SAMPLE_DIMS, dims, sample_shape),
        ("prior", prior, SAMPLE_DIMS, dims, {}),
        ("prior_predictive", prior_predictive, SAMPLE_DIMS, dims, {}),
        ("observed_data", observed_data, (), dims, {}),
        ("constant_data", constant_data, (), dims, {}),
        ("predictions_constant_data", predictions_constant_data, (), new_dims, {}),
    ):
        if data is not None:
            groups[name] = _group(name, data, leading, names, sizes)
    common = {"inference_library": "pyro", **(attrs or {})}
    finished = {
        name: _finished(group, coords or {}).assign_attrs(common) for name, group in groups.items()
    }
    if is_arviz_1():
        tree = xarray.DataTree.from_dict(finished)
        tree.attrs.update(common)
        return tree
    import arviz

    inference_data: Any = arviz.InferenceData  # its groups are keywords of any name
    return inference_data(attrs=common, **finished)


def _group(
    group: str, data: Fits | xarray.Dataset, leading: Sequence[str], dims: Dims, sizes: Sizes
) -> xarray.Dataset:
    if isinstance(data, xarray.Dataset):
        return data
    # What does not depend on the draw is a chain without one.
    arrays = stacked(group, data, sizes)
    if not leading:
        arrays = {name: array[0] for name, array in arrays.items()}
    return named_dataset(arrays, leading, dims)


def named_dataset(arrays: Arrays, leading: Sequence[str], dims: Dims) -> xarray.Dataset:
    """Name the dimensions of arrays: the leading ones alike, the others by variable."""
    variables = {}
    for name, array in arrays.items():
        further = [f"{name}_dim_{axis}" for axis in range(array.ndim - len(leading))]
        variables[name] = ((*leading, *dims.get(name, further)), array)
    return xarray.Dataset(variables)


def stacked(name: str, fits: Fits, sizes: Sizes) -> Arrays:
    """Stack the variables of independent fits along a new first dimension, ``chain``.

    ``sizes`` are the lengths of the leading dimensions of the result by name; ``name`` is what the
    fits are called in an error.
    """
    chains = [fits] if isinstance(fits, Mapping) else list(fits)
    if not chains:
        raise ValueError(f"{name} holds no fit; wanted one mapping, or a sequence of one a chain")
    arrays = {}
    for chain, fit in enumerate(chains):
        if set(fit) != set(chains[0]):
            names = [sorted(chains[0]), sorted(fit)]
            raise ValueError(f"{name} of chains 0 and {chain} differs in its names: {names}")
    for variable in chains[0]:
        parts = [_array(fit[variable]) for fit in chains]
        shapes = [part.shape for part in parts]
        if len({*shapes}) > 1:
            raise ValueError(
                f"{variable!r} has the shapes {shapes} in the chains of {name}; wanted one shape"
            )
        arrays[variable] = np.stack(parts)
        check_shape(variable, arrays[variable], sizes)
    return arrays


def _array(values: Any) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values
    return np.asarray(values)


def check_shape(name: str, array: npt.NDArray[Any], wanted: Sizes) -> None:
    """Refuse an array whose leading dimensions are not those wanted, by name."""
    if array.shape[: len(wanted)] != tuple(wanted.values()):
        dims = ", ".join(f"{dim}={size}" for dim, size in wanted.items())
        raise ValueError(
            f"{name!r} has shape {array.shape}; wanted it to start with ({dims}), as the others do"
        )


def _finished(group: xarray.Dataset, coords: Mapping[str, Any]) -> xarray.Dataset:
    for name in map(str, group.data_vars):
        if "/" in name:
            raise ValueError(f"the name {name!r} contains '/', a path to netCDF; use dots")
    numbered = {
        dim: coords.get(str(dim), np.arange(size))
        for dim, size in group.sizes.items()
        if dim not in group.coords
    }
    if set(SAMPLE_DIMS) <= set(group.sizes):
        group = group.assign_attrs(sample_dims=[*SAMPLE_DIMS])  # where ArviZ 1.x looks for them
    return group.assign_coords(numbered)


def is_arviz_1() -> bool:
    """Tell whether ArviZ is of the line that knows ``DataTree``."""
    import arviz

    # ArviZ 1.x still has a name `InferenceData`, so only the version tells the two apart.
    return int(arviz.__version__.split(".")[0]) >= 1
