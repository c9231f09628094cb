"""Draws of LoRA weights as ArviZ groups: named dimensions, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from blob_pyro.diagnostics.chains import Fit, as_fits, check_shape, stack
from blob_pyro.diagnostics.layer_path import layer_path

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
