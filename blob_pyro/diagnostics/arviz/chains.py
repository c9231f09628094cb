"""Independent fits as chains: the checks and the stacking that ArviZ groups need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from blob_pyro.diagnostics.arrays import Values, as_numpy

Fit: TypeAlias = Mapping[str, Values]


def as_fits(name: str, fits: Fit | Sequence[Fit]) -> list[Fit]:
    """Give a list of fits, of which one alone is a list of length 1.

    Parameters
    ----------
    name
        What the fits are called in an error.
    fits
        A mapping from names to arrays, or a sequence of such mappings with the same names.

    Returns
    -------
    list of mapping
        One mapping a chain.

    Raises
    ------
    ValueError
        If there is no fit, or the fits do not have the same names.

    Examples
    --------
    >>> as_fits("posterior", {"scale": [0.1, 0.2]})
    [{'scale': [0.1, 0.2]}]
    """
    chains = [fits] if isinstance(fits, Mapping) else list(fits)
    if not chains:
        raise ValueError(f"{name} holds no fit; wanted one mapping, or a sequence of one a chain.")
    for chain, fit in enumerate(chains):
        if set(fit) != set(chains[0]):
            raise ValueError(
                f"{name} of chain {chain} has the names {sorted(fit)}; wanted those of chain 0, "
                f"{sorted(chains[0])}. Collect the same names from each fit."
            )
    return chains


def stack(name: str, fits: Sequence[Fit]) -> npt.NDArray[Any]:
    """Stack one variable of several fits along a new first dimension, ``chain``.

    Parameters
    ----------
    name
        Name of the variable in each fit.
    fits
        One mapping a chain.

    Returns
    -------
    numpy.ndarray
        chain x the shape in each fit, dtype kept.

    Raises
    ------
    ValueError
        If the variable does not have the same shape in each fit.

    Examples
    --------
    >>> stack("scale", [{"scale": [0.1, 0.2]}, {"scale": [0.3, 0.4]}]).shape
    (2, 2)
    """
    arrays = [as_numpy(fit[name]) for fit in fits]
    for chain, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise ValueError(
                f"{name!r} of chain {chain} has shape {array.shape}; wanted that of chain 0, "
                f"{arrays[0].shape}. Use the same draws, examples and layers for each fit."
            )
    return np.stack(arrays)


def check_shape(name: str, array: npt.NDArray[Any], wanted: Mapping[str, int]) -> None:
    """Refuse an array whose leading dimensions are not those wanted.

    Parameters
    ----------
    name
        What the array is called in the error.
    array
        Any dtype.
    wanted
        Length of each leading dimension by the name of the dimension, in order.

    Raises
    ------
    ValueError
        If a dimension is missing or has another length.

    Examples
    --------
    >>> import numpy as np
    >>> check_shape("ids", np.zeros((3, 2)), {"example": 3})
    """
    if array.shape[: len(wanted)] != tuple(wanted.values()):
        dims = ", ".join(f"{dim}={size}" for dim, size in wanted.items())
        raise ValueError(
            f"{name!r} has shape {array.shape}; wanted it to start with ({dims}), as the logits "
            "do. Give it for the same draws and examples as the logits."
        )
