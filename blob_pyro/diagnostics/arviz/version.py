"""Groups put together as the object of the ArviZ that is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from blob_pyro.diagnostics.arviz.groups import SAMPLE_DIMS
from blob_pyro.version import __version__

if TYPE_CHECKING:
    import xarray


def is_arviz_1() -> bool:
    """Tell whether ArviZ is of the line that knows ``DataTree``.

    Examples
    --------
    >>> is_arviz_1() in (True, False)
    True
    """
    import arviz

    # ArviZ 1.x still has a name `InferenceData`, so only the version tells the two apart.
    return int(arviz.__version__.split(".")[0]) >= 1


def to_arviz(
    groups: Mapping[str, xarray.Dataset], coords: Mapping[str, Any], attrs: Mapping[str, Any]
) -> Any:
    """Make an ArviZ object of its groups.

    Parameters
    ----------
    groups
        Name of the group to data set.
    coords
        Values of dimensions, for all groups that have them; others are numbered from 0.
    attrs
        Attributes of the object and of each group.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The former from ArviZ 0.2x, the latter from 1.x.

    Raises
    ------
    ValueError
        If a name cannot be written to a file.

    Examples
    --------
    >>> import xarray
    >>> draws = xarray.Dataset({"a": (("chain", "draw"), [[0.5, 0.6]])})
    >>> to_arviz({"posterior": draws}, {}, {}).posterior["draw"].values
    array([0, 1])
    """
    common = {"inference_library": "blob_pyro", "inference_library_version": __version__, **attrs}
    finished = {
        name: _finished(group, coords).assign_attrs(common) for name, group in groups.items()
    }
    if is_arviz_1():
        import xarray

        tree = xarray.DataTree.from_dict(finished)
        tree.attrs.update(common)
        return tree
    import arviz

    inference_data: Any = arviz.InferenceData  # its groups are keywords of any name
    return inference_data(attrs=common, **finished)


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
